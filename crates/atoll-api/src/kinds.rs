//! The table of kinds: one row for every resource, with the hooks of those that behave.
//!
//! The API server has one generic path; whatever is particular to a kind stands in its row
//! (names, verbs, subresources) or in its hooks, which are pure functions over object trees.

pub mod aggregation;
pub(crate) mod amount;
pub mod autoscaling;
pub mod batch;
mod builder;
mod config;
pub mod csr;
mod disruption;
mod dynamic;
pub mod endpoints;
pub mod event;
pub mod extensions;
pub mod flow;
mod lease;
pub mod metadata;
pub mod namespace;
mod networking;
pub mod node;
mod plain;
pub mod pod;
mod policies;
pub(crate) mod prepare;
pub mod quota;
mod rbac;
mod replication;
mod review;
mod row;
mod runtime;
pub mod scale;
pub mod service;
mod service_account;
mod stateful;
pub mod storage;
mod table;
pub mod webhooks;
pub mod workload;

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::access::Access as _;
use crate::schema::{self, Definition, Name};
use crate::structural::CustomKind;
use crate::{columns, defaults, field, names, validate};

pub use row::{Row, Words};

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// A resource as it stands in a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvr {
    pub group: Name,
    pub version: Name,
    pub resource: Name,
}

/// A type as it stands in an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
}

impl Gvk {
    /// `v1`, `apps/v1`: what stands in `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

/// What the API server may do with a resource, in the words of discovery and RBAC.
pub type Verbs = &'static [&'static str];

/// A part of an object with a URL of its own.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// The last element of the URL: `status`, `scale`, `log`.
    pub name: &'static str,
    /// The kind of what is sent and answered.
    pub kind: Name,
    /// Group and version of `kind`; both empty when they are those of the resource.
    pub group: &'static str,
    pub version: &'static str,
    pub verbs: Verbs,
    /// False when discovery lists it upstream but nothing stands behind it here yet: the
    /// server leaves it out of discovery and answers 404.
    pub served: bool,
    /// Set where updating this part is an update of the stored object with other rules.
    pub update: Option<UpdateHooks>,
}

/// The rules of one way to update an object.
#[derive(Debug, Clone, Copy)]
pub struct UpdateHooks {
    /// Resets in `new` what this way may not change.
    pub prepare: fn(new: &mut Value, old: &Value),
    pub validate: Option<fn(new: &Value, old: &Value) -> Vec<field::Error>>,
}

/// How an object stands in the store when that differs from how it is served.
#[derive(Debug, Clone)]
pub struct Storage {
    pub group: Name,
    pub version: Name,
    pub resource: Name,
    pub kind: Name,
    /// Conversions between the served version and the stored one, both ways without loss.
    pub to_storage: Option<fn(&mut Value)>,
    pub from_storage: Option<fn(&mut Value)>,
}

/// One resource of one group and version.
#[derive(Debug, Clone)]
pub struct ResourceInfo {
    pub group: Name,
    pub version: Name,
    /// The plural of the URL.
    pub resource: Name,
    pub kind: Name,
    pub list_kind: Name,
    pub singular: Name,
    pub short_names: Words,
    pub categories: Words,
    pub scope: Scope,
    pub verbs: Verbs,
    pub subresources: Cow<'static, [Subresource]>,
    pub storage: Storage,
    /// The schema's key: `io.k8s.api.core.v1.Pod`.
    pub definition: Name,
    /// Which names objects may have.
    pub name_rule: names::Rule,
    /// False for resources that are known but whose behaviour is not there yet: the server
    /// leaves them out of discovery and answers 404.
    pub served: bool,
    /// The warning for every request, also one that only reads.
    pub deprecation: Option<Name>,
    /// Never stored: a create is a question and its answer (TokenReview and its like).
    pub virtual_only: bool,
    pub hooks: Hooks,
    /// What a row of a custom resource behaves like, beside its hooks.
    pub custom: Option<Arc<CustomKind>>,
}

/// Texts of warnings for a new object, or a changed one.
pub type Warnings = fn(new: &Value, old: Option<&Value>) -> Vec<String>;

/// The grace period in seconds of a delete, from the object and what the client asked for.
pub type GracePeriod = fn(object: &Value, requested: Option<i64>) -> Option<i64>;

/// What is particular to a kind. `None` means that nothing is.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Fills in what the client left out. Runs on every write, after decoding.
    pub default: Option<fn(&mut Value)>,
    /// Drops what a client may not set (status) and sets what the server sets (generation).
    pub prepare_create: Option<fn(&mut Value)>,
    /// Fills in what follows from the uid that the server has just given to a new object.
    pub identified: Option<fn(&mut Value)>,
    /// Keeps the old status and raises generation when the spec changed.
    pub prepare_update: Option<fn(new: &mut Value, old: &Value)>,
    /// Keeps everything but the status.
    pub prepare_status_update: Option<fn(new: &mut Value, old: &Value)>,
    /// What the first delete of an object sets in it: a finalizer that waits for others.
    pub prepare_delete: Option<fn(&mut Value)>,
    pub validate_create: Option<fn(&Value) -> Vec<field::Error>>,
    pub validate_update: Option<fn(new: &Value, old: &Value) -> Vec<field::Error>>,
    pub validate_status_update: Option<fn(new: &Value, old: &Value) -> Vec<field::Error>>,
    /// Texts for `Warning:` headers on create (`old` is `None`) and update.
    pub warnings: Option<Warnings>,
    /// Labels for field selectors beyond `metadata.name` and `metadata.namespace`.
    pub selectable_fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// The names that `selectable_fields` may give, to refuse others.
    pub selectable_names: &'static [&'static str],
    pub columns: &'static [columns::Column],
    /// The cells of a Table row, one a column.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
    /// The conditions of a Table row (`Completed`); most kinds have none.
    pub row_conditions: Option<fn(&Value) -> Vec<Value>>,
    /// The grace period in seconds to delete with; `None` from the hook means at once. The
    /// argument is what the client asked for. Kinds without the hook are deleted at once.
    pub graceful_delete: Option<GracePeriod>,
    /// An upsert: a PUT (or apply) on a missing name creates it.
    pub create_on_update: bool,
    /// A PUT without a resourceVersion overwrites whatever is there.
    pub unconditional_update: bool,
    /// A delete that says nothing of dependents leaves them there (upstream's
    /// `DefaultGarbageCollectionPolicy`).
    pub orphans_dependents: bool,
}

impl Hooks {
    /// A kind without behaviour: objects are stored as they come.
    pub const NONE: Self = Self {
        default: Some(defaults::normalise),
        prepare_create: None,
        identified: None,
        prepare_update: None,
        prepare_status_update: None,
        prepare_delete: None,
        validate_create: None,
        validate_update: None,
        validate_status_update: None,
        warnings: None,
        selectable_fields: no_fields,
        selectable_names: &[],
        columns: columns::GENERIC,
        row: columns::generic_row,
        row_conditions: None,
        graceful_delete: None,
        create_on_update: false,
        unconditional_update: true,
        orphans_dependents: false,
    };
}

impl ResourceInfo {
    #[must_use]
    pub fn gvr(&self) -> Gvr {
        let (group, version) = (self.group.clone(), self.version.clone());
        Gvr { group, version, resource: self.resource.clone() }
    }

    #[must_use]
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }

    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `pods`, `deployments.apps`: how errors name the resource.
    #[must_use]
    pub fn qualified_resource(&self) -> String {
        qualified(&self.resource, &self.group)
    }

    /// `Pod`, `Deployment.apps`: how `is invalid` errors name the kind.
    #[must_use]
    pub fn qualified_kind(&self) -> String {
        qualified(&self.kind, &self.group)
    }

    /// The shape of the kind's objects.
    #[must_use]
    pub fn schema(&self) -> Option<&Definition> {
        match &self.custom {
            Some(custom) => Some(&custom.definition),
            None => schema::by_name(&self.definition).map(schema::SchemaId::definition),
        }
    }

    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    #[must_use]
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// A subresource that is served.
    #[must_use]
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|sub| sub.name == name && sub.served)
    }

    /// Fills in what the client left out.
    pub fn default(&self, object: &mut Value) {
        if let Some(custom) = &self.custom {
            return custom.default(object);
        }
        if let Some(default) = self.hooks.default {
            default(object);
        }
    }

    /// Texts for `Warning:` headers on create (`old` is `None`) and update.
    #[must_use]
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        self.hooks.warnings.map(|warnings| warnings(new, old)).unwrap_or_default()
    }

    /// Labels for field selectors beyond `metadata.name` and `metadata.namespace`.
    #[must_use]
    pub fn selectable_fields(&self, object: &Value) -> Vec<(Name, String)> {
        if let Some(custom) = &self.custom {
            return custom.selectable_fields(object);
        }
        let fields = (self.hooks.selectable_fields)(object).into_iter();
        fields.map(|(name, value)| (Name::Borrowed(name), value)).collect()
    }

    /// The names that [`Self::selectable_fields`] may give.
    #[must_use]
    pub fn selectable_names(&self) -> Vec<&str> {
        match &self.custom {
            Some(custom) => custom.selectable.iter().map(|(name, _)| &**name).collect(),
            None => self.hooks.selectable_names.to_vec(),
        }
    }

    /// The `columnDefinitions` of a Table.
    #[must_use]
    pub fn column_definitions(&self) -> Value {
        match &self.custom {
            Some(custom) => custom.column_definitions(),
            None => self.hooks.columns.iter().map(columns::Column::to_value).collect(),
        }
    }

    /// The cells of a Table row, one a column.
    #[must_use]
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.custom {
            Some(custom) => custom.cells(object, now),
            None => (self.hooks.row)(object, now),
        }
    }

    /// Whether the definition of this kind is being deleted: nothing of it comes any more.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.custom.is_some() && !self.allows("create")
    }

    /// The object's Scale.
    #[must_use]
    pub fn scale(&self, object: &Value) -> Value {
        match self.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
            Some(paths) => scale::of_custom(object, paths),
            None => scale::get(object),
        }
    }

    /// Carries the replicas and the precondition of a Scale into the object that it scales.
    pub fn put_scale(&self, object: &mut Value, wanted: &Value) {
        match self.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
            Some(paths) => scale::put_custom(object, wanted, paths),
            None => scale::put(object, wanted),
        }
    }

    /// What a configuration of a Scale says of the object that it scales.
    #[must_use]
    pub fn scale_configuration(&self, config: &Value) -> Value {
        let mut own = scale::configuration(config, &self.api_version(), &self.kind);
        if let Some(paths) = self.custom.as_ref().and_then(|custom| custom.scale.as_ref()) {
            prepare::remove(&mut own, "spec");
            if let Some(replicas) = config["spec"].int("replicas") {
                paths.put(&mut own, replicas);
            }
        }
        own
    }

    /// What a create does before admission and validation: server-set fields of the metadata
    /// are wiped, then the kind's own hook runs. `uid` and times are set by the server.
    pub fn prepare_create(&self, object: &mut Value) {
        metadata::wipe(object);
        if let Some(custom) = &self.custom {
            custom.prepare_create(object);
        }
        if let Some(prepare) = self.hooks.prepare_create {
            prepare(object);
        }
    }

    /// What an update does before validation.
    pub fn prepare_update(&self, new: &mut Value, old: &Value) {
        metadata::carry_over(new, old);
        if let Some(custom) = &self.custom {
            custom.prepare_update(new, old);
        }
        if let Some(prepare) = self.hooks.prepare_update {
            prepare(new, old);
        }
    }

    /// What an update of the status does before validation. Without a hook, everything but
    /// the status stays as it is.
    pub fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        metadata::carry_over(new, old);
        match self.hooks.prepare_status_update {
            Some(prepare) => prepare(new, old),
            None => prepare::keep_all_but_status(new, old),
        }
    }

    /// All checks of a new object: metadata by the generic rules, then the kind's own.
    #[must_use]
    pub fn validate_create(&self, object: &Value) -> Vec<field::Error> {
        let mut errors = validate::metadata::create(object, self.scope, self.name_rule);
        errors.extend(validate::metadata::core_rules(&self.group, object));
        if let Some(check) = self.hooks.validate_create {
            errors.extend(check(object));
        }
        errors.extend(self.custom.iter().flat_map(|custom| custom.validate(object, None)));
        errors
    }

    /// All checks of a changed object.
    #[must_use]
    pub fn validate_update(&self, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = validate::metadata::update(new, old);
        if let Some(check) = self.hooks.validate_update {
            errors.extend(check(new, old));
        }
        errors.extend(self.custom.iter().flat_map(|custom| custom.validate(new, Some(old))));
        errors
    }

    /// All checks of an update of the status.
    #[must_use]
    pub fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<field::Error> {
        let mut errors = validate::metadata::update(new, old);
        if let Some(check) = self.hooks.validate_status_update {
            errors.extend(check(new, old));
        }
        errors.extend(self.custom.iter().flat_map(|custom| custom.validate(new, Some(old))));
        errors
    }
}

/// Every resource of the API, in the order of discovery.
#[must_use]
pub fn builtin() -> &'static [ResourceInfo] {
    table::BUILTIN
}

/// The row of a URL.
#[must_use]
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static ResourceInfo> {
    builtin()
        .iter()
        .find(|row| row.resource == resource && row.group == group && row.version == version)
}

/// The row of a kind.
#[must_use]
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceInfo> {
    builtin().iter().find(|row| row.kind == kind && row.group == group && row.version == version)
}

/// `v1` for the core group, `group/version` for the others.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn no_fields(_: &Value) -> Vec<(&'static str, String)> {
    Vec::new()
}
