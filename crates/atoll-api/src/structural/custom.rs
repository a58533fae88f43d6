//! From a CustomResourceDefinition to the rows that it adds to the table, with their behaviour.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::jsonpath::JsonPath;
use super::{Check, Node, checks, defaulting, lists, pruning, rules};
use crate::access::Access as _;
use crate::columns::since;
use crate::field::{Error, Path};
use crate::kinds::{
    Hooks, ResourceInfo, Scope, Storage, Subresource, Verbs, Words, metadata, prepare,
};
use crate::names;
use crate::schema::{Definition, Name, TypeError};

const EVERY_VERB: Verbs =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// What discovery says of a kind whose definition goes: nothing comes any more.
const ENDING_VERBS: Verbs = &["delete", "deletecollection", "get", "list", "watch"];
const PART_VERBS: Verbs = &["get", "patch", "update"];

/// What one version of a custom resource is.
#[derive(Debug)]
pub struct CustomKind {
    /// The name of the CustomResourceDefinition: `widgets.example.com`.
    pub crd: String,
    pub node: Arc<Node>,
    /// `openAPIV3Schema` as it stands in the definition.
    pub schema: Value,
    pub definition: Arc<Definition>,
    pub status: bool,
    pub scale: Option<ScalePaths>,
    pub columns: Vec<Column>,
    pub selectable: Vec<(Name, JsonPath)>,
    /// The schemas of all versions: what is stored may be in any of them.
    pub versions: Arc<BTreeMap<String, Arc<Node>>>,
    /// `spec.conversion` when it is a webhook.
    pub webhook: Option<Arc<Value>>,
}

/// Where the scale of an object stands.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    pub spec_replicas: Vec<String>,
    pub status_replicas: Vec<String>,
    pub selector: Vec<String>,
}

/// A printer column.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    pub kind: String,
    pub format: String,
    pub description: String,
    pub priority: i64,
    path: Option<JsonPath>,
}

/// What came of reading an object in the form of a version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Read {
    pub unknown: Vec<String>,
}

/// The rows of a definition, one for each version, those first that clients prefer. Versions
/// that are not served have rows that are not.
#[must_use]
pub fn rows(crd: &Value) -> Vec<ResourceInfo> {
    let spec = &crd["spec"];
    let mut versions: Vec<&Value> = spec.items("versions").iter().collect();
    versions.sort_by_key(|version| Reverse(priority(version.text("name"))));
    let nodes = versions.iter().map(|version| {
        let node = Node::compile(&version["schema"]["openAPIV3Schema"]);
        (version.text("name").to_owned(), Arc::new(node))
    });
    let nodes: Arc<BTreeMap<String, Arc<Node>>> = Arc::new(nodes.collect());
    let webhook = (spec["conversion"].text("strategy") == "Webhook")
        .then(|| Arc::new(spec["conversion"].clone()));
    let rows = versions.iter().filter_map(|version| {
        let kind = CustomKind::new(crd, version, &nodes, webhook.clone())?;
        Some(row(crd, version, kind))
    });
    rows.collect()
}

/// Versions in the order of preference: `v2`, `v1`, `v1beta1`, `v1alpha1`, then others by name.
fn priority(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let other = (0, 0, 0, Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.len() - rest.trim_start_matches(|one: char| one.is_ascii_digit()).len();
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse() else { return other };
    let (rank, minor) = match rest {
        "" => (3, ""),
        rest => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return other,
        },
    };
    if rank == 3 {
        return (rank, major, 0, Reverse(String::new()));
    }
    match minor.parse() {
        Ok(minor) => (rank, major, minor, Reverse(String::new())),
        Err(_) => other,
    }
}

/// `com.example.v1.Widget`: the name of the definition in OpenAPI.
#[must_use]
pub(super) fn definition_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

fn row(crd: &Value, version: &Value, custom: CustomKind) -> ResourceInfo {
    let spec = &crd["spec"];
    let names = &crd["status"]["acceptedNames"];
    let own = |text: &str| Name::Owned(text.to_owned());
    let (group, name) = (spec.text("group"), version.text("name"));
    let (plural, kind) = (names.text("plural"), names.text("kind"));
    let stored = spec.items("versions").iter().find(|one| one.flag("storage"));
    let stored = stored.map_or(name, |stored| stored.text("name"));
    let words = |field: &str| {
        let words = names.items(field).iter().filter_map(Value::as_str);
        Words::Owned(words.map(str::to_owned).collect())
    };
    ResourceInfo {
        group: own(group),
        version: own(name),
        resource: own(plural),
        kind: own(kind),
        list_kind: own(names.text("listKind")),
        singular: own(names.text("singular")),
        short_names: words("shortNames"),
        categories: words("categories"),
        scope: match spec.text("scope") {
            "Cluster" => Scope::Cluster,
            _ => Scope::Namespaced,
        },
        verbs: if crd["metadata"].has("deletionTimestamp") { ENDING_VERBS } else { EVERY_VERB },
        subresources: Cow::Owned(parts(&custom, kind)),
        storage: Storage {
            group: own(group),
            version: own(stored),
            resource: own(plural),
            kind: own(kind),
            to_storage: None,
            from_storage: None,
        },
        definition: Name::Owned(definition_name(group, name, kind)),
        name_rule: names::subdomain_rule,
        served: version.flag("served"),
        deprecation: deprecation(spec.items("versions"), version, group, kind),
        virtual_only: false,
        hooks: Hooks { unconditional_update: false, ..Hooks::NONE },
        custom: Some(Arc::new(custom)),
    }
}

fn deprecation(all: &[Value], version: &Value, group: &str, kind: &str) -> Option<Name> {
    if !version.flag("deprecated") {
        return None;
    }
    let rank = |version: &Value| priority(version.text("name"));
    let better = |other: &&Value| {
        other.flag("served") && !other.flag("deprecated") && rank(other) > rank(version)
    };
    let default = || {
        let text = format!("{group}/{} {kind} is deprecated", version.text("name"));
        match all.iter().filter(better).max_by_key(|other| rank(other)) {
            Some(best) => format!("{text}; use {group}/{} {kind}", best.text("name")),
            None => text,
        }
    };
    let text = version.opt_text("deprecationWarning").map_or_else(default, str::to_owned);
    Some(Name::Owned(text))
}

fn parts(custom: &CustomKind, kind: &str) -> Vec<Subresource> {
    let part = |name, kind: &str, group, version| Subresource {
        name,
        kind: Name::Owned(kind.to_owned()),
        group,
        version,
        verbs: PART_VERBS,
        served: true,
        update: None,
    };
    let status = custom.status.then(|| part("status", kind, "", ""));
    let scale = custom.scale.is_some().then(|| part("scale", "Scale", "autoscaling", "v1"));
    status.into_iter().chain(scale).collect()
}

impl CustomKind {
    fn new(
        crd: &Value,
        version: &Value,
        nodes: &Arc<BTreeMap<String, Arc<Node>>>,
        webhook: Option<Arc<Value>>,
    ) -> Option<Self> {
        let name = version.text("name");
        let node = nodes.get(name)?.clone();
        let kind = crd["status"]["acceptedNames"].text("kind");
        let full = definition_name(crd["spec"].text("group"), name, kind);
        let parts = &version["subresources"];
        Some(Self {
            crd: crd["metadata"].text("name").to_owned(),
            definition: Arc::new(node.definition(&full)),
            node,
            schema: version["schema"]["openAPIV3Schema"].clone(),
            status: parts.has("status"),
            scale: parts.has("scale").then(|| ScalePaths::new(&parts["scale"])),
            columns: Column::all(version.items("additionalPrinterColumns")),
            selectable: version
                .items("selectableFields")
                .iter()
                .filter_map(|field| {
                    let path = field.text("jsonPath");
                    let name = path.trim_start_matches('.').to_owned();
                    Some((Name::Owned(name), JsonPath::parse(path).ok()?))
                })
                .collect(),
            versions: nodes.clone(),
            webhook,
        })
    }

    /// Brings what a client sent, or what is stored, into the form of this version: unknown
    /// fields go.
    ///
    /// # Errors
    ///
    /// When the metadata is not of its type.
    pub fn read(&self, object: &mut Value) -> Result<Read, TypeError> {
        let pruned = pruning::prune(&self.node, object)?;
        Ok(Read { unknown: pruned.unknown })
    }

    /// Brings an object as it stands in the store into form: pruned and defaulted by the schema
    /// of the version in which it was written. Metadata that cannot be read stays as it is.
    ///
    /// Answers that version.
    pub fn read_stored(&self, object: &mut Value) -> String {
        let api_version = object.text("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or("").to_owned();
        let node = self.versions.get(&version).unwrap_or(&self.node);
        pruning::prune(node, object).ok();
        defaulting::default(node, object);
        defaulting::drop_nulls(node, object);
        version
    }

    /// What conversion brought, without what this version does not specify.
    pub fn converted(&self, object: &mut Value) {
        pruning::prune(&self.node, object).ok();
    }

    pub(crate) fn default(&self, object: &mut Value) {
        if let Some(metadata) = object.get_mut("metadata") {
            crate::defaults::normalise_metadata(metadata);
        }
        defaulting::default(&self.node, object);
        defaulting::drop_nulls(&self.node, object);
    }

    pub(crate) fn prepare_create(&self, object: &mut Value) {
        if self.status {
            prepare::drop_status(object);
        }
        metadata::start_generation(object);
    }

    pub(crate) fn prepare_update(&self, new: &mut Value, old: &Value) {
        if self.status {
            prepare::keep_status(new, old);
        }
        let same = |field: &str| new.get(field) == old.get(field);
        let fields = |object: &Value| -> Vec<String> {
            object.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };
        let all = fields(new).into_iter().chain(fields(old));
        if all.filter(|name| name != "metadata").any(|name| !same(&name)) {
            metadata::raise_generation(new, old);
        }
    }

    /// All that is wrong with an object beside its metadata; `old` is there on update.
    pub(crate) fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Error> {
        let check = Check { value: new, old };
        let mut errors = checks::check(&self.node, check);
        errors.extend(self.scale_errors(new));
        errors.extend(lists::embedded(&self.node, new));
        let before = old.map(|old| lists::list_items(&self.node, old)).unwrap_or_default();
        let twice = lists::list_items(&self.node, new);
        errors.extend(twice.into_iter().filter(|error| !before.contains(error)));
        let blocking = errors.iter().any(|error| error.kind.blocks());
        if blocking && rules::any(&self.node) {
            let why = "some validation rules were not checked because the object was invalid; \
                       correct the existing errors to complete validation";
            errors
                .push(Error { path: "<nil>".to_owned(), ..Path::root().invalid(Value::Null, why) });
        } else if !blocking {
            errors.extend(rules::check(&self.node, check));
        }
        errors
    }

    fn scale_errors(&self, object: &Value) -> Vec<Error> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut errors = Vec::new();
        for path in [&scale.spec_replicas, &scale.status_replicas] {
            let place = Path::new(&format!(".{}", path.join(".")));
            match found(object, path) {
                None => {}
                Some(value) if !value.is_i64() => {
                    errors.push(place.invalid(0, wrong_type(path, value, "int64")));
                }
                Some(value) => match value.as_i64().unwrap_or_default() {
                    replicas if replicas < 0 => {
                        errors.push(place.invalid(replicas, "should be a non-negative integer"));
                    }
                    replicas if replicas > i64::from(i32::MAX) => {
                        let text = format!("should be less than or equal to {}", i32::MAX);
                        errors.push(place.invalid(replicas, text));
                    }
                    _ => {}
                },
            }
        }
        let selector = found(object, &scale.selector).filter(|_| !scale.selector.is_empty());
        if let Some(value) = selector.filter(|value| !value.is_string()) {
            let place = Path::new(&format!(".{}", scale.selector.join(".")));
            errors.push(place.invalid("", wrong_type(&scale.selector, value, "string")));
        }
        errors
    }

    pub(crate) fn selectable_fields(&self, object: &Value) -> Vec<(Name, String)> {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let fields = self.selectable.iter();
        fields
            .map(|(name, path)| (name.clone(), path.first(object).map(text).unwrap_or_default()))
            .collect()
    }

    pub(crate) fn column_definitions(&self) -> Value {
        let name = crate::columns::NAME.to_value();
        let own = self.columns.iter().map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        });
        std::iter::once(name).chain(own).collect()
    }

    pub(crate) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = json!(object["metadata"].text("name"));
        let cells = self.columns.iter().map(|column| column.cell(object, now));
        std::iter::once(name).chain(cells).collect()
    }
}

impl Column {
    fn all(columns: &[Value]) -> Vec<Self> {
        if columns.is_empty() {
            let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
                "description": crate::columns::AGE.description});
            return vec![Self::new(&age)];
        }
        columns.iter().map(Self::new).collect()
    }

    fn new(column: &Value) -> Self {
        let path = column.text("jsonPath");
        let default = || format!("Custom resource definition column (in JSONPath format): {path}");
        let description = column.opt_text("description").filter(|text| !text.is_empty());
        Self {
            name: column.text("name").to_owned(),
            kind: column.text("type").to_owned(),
            format: column.text("format").to_owned(),
            description: description.map_or_else(default, str::to_owned),
            priority: column.int("priority").unwrap_or(0),
            path: JsonPath::parse(path).ok(),
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().and_then(|path| path.first(object));
        let Some(value) = found else { return Value::Null };
        match self.kind.as_str() {
            "string" => match value {
                Value::String(text) => json!(text),
                Value::Null => Value::Null,
                other => json!(other.to_string()),
            },
            "integer" => match value.as_i64() {
                Some(_) => value.clone(),
                None => value.as_f64().map_or(Value::Null, |float| json!(truncated(float))),
            },
            "number" if value.is_number() => value.clone(),
            "boolean" if value.is_boolean() => value.clone(),
            "date" => match value.as_str() {
                Some(text) if text.parse::<Timestamp>().is_ok() => json!(since(text, now)),
                Some(_) => json!("<invalid>"),
                None => Value::Null,
            },
            _ => Value::Null,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "as Go converts a float to an integer")]
fn truncated(float: f64) -> i64 {
    float as i64
}

impl ScalePaths {
    fn new(scale: &Value) -> Self {
        let path = |field: &str| -> Vec<String> {
            let parts = scale.text(field).split('.').filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        Self {
            spec_replicas: path("specReplicasPath"),
            status_replicas: path("statusReplicasPath"),
            selector: path("labelSelectorPath"),
        }
    }

    pub(crate) fn replicas(&self, object: &Value) -> Option<i64> {
        at(object, &self.spec_replicas)?.as_i64()
    }

    pub(crate) fn current(&self, object: &Value) -> i64 {
        at(object, &self.status_replicas).and_then(Value::as_i64).unwrap_or(0)
    }

    pub(crate) fn selector_text<'a>(&self, object: &'a Value) -> &'a str {
        let path = Some(&self.selector).filter(|path| !path.is_empty());
        path.and_then(|path| at(object, path)).and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn put(&self, object: &mut Value, replicas: i64) {
        let mut slot = object;
        for name in &self.spec_replicas {
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            slot = &mut slot[name.as_str()];
        }
        *slot = json!(replicas);
    }
}

/// The same of a schema that promises nothing: null is a value there.
fn found<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    at(object, path).filter(|value| !value.is_null())
}

/// What upstream's accessor says (`unstructured.NestedInt64`), with the types of Go.
fn wrong_type(path: &[String], value: &Value, wanted: &str) -> String {
    let has = match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!(".{} accessor error: {shown} is of the type {has}, expected {wanted}", path.join("."))
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}
