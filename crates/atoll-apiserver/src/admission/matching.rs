//! Which requests a policy or a webhook wants to see: rules, selectors, equivalent resources.
//!
//! Policies and webhooks state the same things in the same words; this is read from both.

use std::borrow::Cow;

use atoll_api::access::Access as _;
use atoll_api::kinds::{Gvk, Gvr, ResourceInfo, Row, scale};
use atoll_api::selector::{LabelSelector, SelectorError};
use serde_json::Value;

use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;
use crate::storage;

/// Which requests are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Criteria {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Without a rule everything is wanted: so it is with a policy's binding.
    all_without_rules: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
    /// Only the very resource that a rule names, not the same objects in another version.
    exact: bool,
}

/// admissionregistration.k8s.io/v1 `NamedRuleWithOperations`; a webhook's names no objects.
#[derive(Debug, Clone, Default)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    names: Vec<String>,
}

/// How a request that matched is to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Matched {
    /// The resource in the version that a rule names: the request's own, or an equivalent one.
    pub resource: Gvr,
    pub kind: Gvk,
    /// The equivalent resource, when it is not the request's own.
    other: Option<Row>,
}

impl Criteria {
    /// From `matchConstraints` of a policy or `matchResources` of a binding; null is all.
    pub(crate) fn of_policy(constraints: &Value) -> Result<Self, SelectorError> {
        Ok(Self {
            rules: rules(constraints, "resourceRules"),
            excluded: rules(constraints, "excludeResourceRules"),
            all_without_rules: true,
            ..Self::selectors(constraints)?
        })
    }

    /// From one webhook of a configuration.
    pub(crate) fn of_webhook(webhook: &Value) -> Result<Self, SelectorError> {
        Ok(Self { rules: rules(webhook, "rules"), ..Self::selectors(webhook)? })
    }

    fn selectors(from: &Value) -> Result<Self, SelectorError> {
        Ok(Self {
            namespaces: LabelSelector::from_object(&from["namespaceSelector"])?,
            objects: LabelSelector::from_object(&from["objectSelector"])?,
            exact: from.text("matchPolicy") == "Exact",
            ..Self::default()
        })
    }

    /// Whether the request is wanted, and as what. `object` is the new object, if there is one;
    /// the old one is in the request.
    pub(crate) async fn matches(
        &self,
        core: &Core,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Matched>, Status> {
        if !self.matches_object(request, object) {
            return Ok(None);
        }
        if self.find(core, &self.excluded, request).is_some() {
            return Ok(None);
        }
        let found = if self.rules.is_empty() && self.all_without_rules {
            Some(Matched::as_asked(request))
        } else {
            self.find(core, &self.rules, request)
        };
        let Some(found) = found else { return Ok(None) };
        // Last, for it may have to ask the store.
        Ok(self.matches_namespace(core, request, object).await?.then_some(found))
    }

    fn matches_object(&self, request: &AdmissionRequest<'_>, object: Option<&Value>) -> bool {
        self.objects.requirements.is_empty()
            || [object, request.old]
                .into_iter()
                .flatten()
                .any(|object| self.objects.matches_object(object))
    }

    async fn matches_namespace(
        &self,
        core: &Core,
        request: &AdmissionRequest<'_>,
        object: Option<&Value>,
    ) -> Result<bool, Status> {
        if self.namespaces.requirements.is_empty() {
            return Ok(true);
        }
        let own = is_namespace(request.row);
        if !own && request.namespace.is_empty() {
            return Ok(true);
        }
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if own && request.subresource.is_empty() && writes {
            // The cache does not know yet what it is going to be.
            return Ok(object.is_some_and(|object| self.namespaces.matches_object(object)));
        }
        let name = if own { request.name } else { request.namespace };
        let namespace = namespace(core, name).await?;
        let namespace = namespace.ok_or_else(|| {
            crate::namespace::row()
                .map_or_else(Status::no_resource, |row| Status::not_found(row, name))
        })?;
        Ok(self.namespaces.matches_object(&namespace))
    }

    fn find(&self, core: &Core, rules: &[Rule], request: &AdmissionRequest<'_>) -> Option<Matched> {
        if rules.iter().any(|rule| rule.matches(request, request.row)) {
            return Some(Matched::as_asked(request));
        }
        if self.exact || rules.is_empty() {
            return None;
        }
        equivalents(core, request.row)
            .find(|row| rules.iter().any(|rule| rule.matches(request, row)))
            .and_then(|row| Matched::new(Some(row), request))
    }
}

/// Other versions and groups in which the same objects are served.
fn equivalents<'a>(core: &'a Core, row: &'a ResourceInfo) -> impl Iterator<Item = Row> + 'a {
    core.registry.rows().filter(move |other| {
        other.storage.group == row.storage.group
            && other.storage.resource == row.storage.resource
            && other.gvr() != row.gvr()
    })
}

/// The namespace, from memory or from the store where memory does not know it yet.
pub(crate) async fn namespace(core: &Core, name: &str) -> Result<Option<Value>, Status> {
    let Some(row) = crate::namespace::row() else { return Ok(None) };
    if let Some(entry) = core.registry.cache(row).and_then(|cache| cache.get("", name)) {
        return entry.object(row).map(Some);
    }
    let stored = core.storage.get(row, "", name).await?;
    stored.map(|stored| stored.object(row)).transpose()
}

/// Nobody can lock himself out: no policy and no webhook sees what configures them.
pub(crate) fn is_exempt(row: &ResourceInfo) -> bool {
    row.group == "admissionregistration.k8s.io"
        && matches!(
            row.kind.as_ref(),
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

fn is_namespace(row: &ResourceInfo) -> bool {
    row.group.is_empty() && row.resource == "namespaces"
}

// === impl Matched ===

impl Matched {
    /// As the client asked.
    pub(crate) fn as_asked(request: &AdmissionRequest<'_>) -> Self {
        Self::new(None, request).unwrap_or(Self {
            resource: request.row.gvr(),
            kind: request.row.gvk(),
            other: None,
        })
    }

    fn new(other: Option<Row>, request: &AdmissionRequest<'_>) -> Option<Self> {
        let row: &ResourceInfo = other.as_deref().unwrap_or(request.row);
        let (resource, mut kind) = (row.gvr(), row.gvk());
        if !request.subresource.is_empty() {
            let part = row.subresource(request.subresource)?;
            if !part.group.is_empty() || !part.version.is_empty() {
                (kind.group, kind.version) = (part.group.into(), part.version.into());
            }
            kind.kind = part.kind.clone();
        }
        Some(Self { resource, kind, other })
    }

    /// The resource in whose version objects are shown.
    pub(crate) fn row<'r>(&'r self, request: &'r AdmissionRequest<'_>) -> &'r ResourceInfo {
        self.other.as_deref().unwrap_or(request.row)
    }

    /// The object of the request as the one who matched wants to see it.
    pub(crate) fn show(&self, request: &AdmissionRequest<'_>, object: &Value) -> Value {
        if is_scaled(request, object) {
            return scale::get(object);
        }
        let mut shown = object.clone();
        if let Some(other) = &self.other {
            convert(&mut shown, request.row, other);
        }
        shown
    }

    /// As [`Matched::show`], without a copy where nothing has to change.
    pub(crate) fn view<'v>(
        &self,
        request: &AdmissionRequest<'_>,
        object: &'v Value,
    ) -> Cow<'v, Value> {
        match &self.other {
            Some(_) => Cow::Owned(self.show(request, object)),
            None => Cow::Borrowed(object),
        }
    }

    /// The reverse: what was changed goes back into the version of the request.
    pub(crate) fn take_back(&self, request: &AdmissionRequest<'_>, object: &mut Value) {
        if let Some(other) = &self.other {
            convert(object, other, request.row);
        }
    }
}

/// Behind a Scale stands the object that is scaled.
pub(crate) fn is_scaled(request: &AdmissionRequest<'_>, object: &Value) -> bool {
    request.subresource == "scale" && object.text("kind") == request.row.kind
}

/// From one version of a resource to another; parts of objects are of no version of theirs.
fn convert(object: &mut Value, from: &ResourceInfo, to: &ResourceInfo) {
    if object.text("kind") != from.kind.as_ref() || object.text("apiVersion") != from.api_version()
    {
        return;
    }
    if let Some(convert) = from.storage.to_storage {
        convert(object);
    }
    storage::from_storage(to, object);
}

// === impl Rule ===

fn rules(from: &Value, field: &str) -> Vec<Rule> {
    from.items(field).iter().map(Rule::read).collect()
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let list = |field: &str| {
            rule.items(field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            operations: list("operations"),
            groups: list("apiGroups"),
            versions: list("apiVersions"),
            resources: list("resources"),
            scope: rule.text("scope").to_owned(),
            names: list("resourceNames"),
        }
    }

    fn matches(&self, request: &AdmissionRequest<'_>, row: &ResourceInfo) -> bool {
        self.fits_scope(row, request.namespace)
            && has(&self.operations, request.operation.as_str())
            && has(&self.groups, &row.group)
            && has(&self.versions, &row.version)
            && self.resources.iter().any(|one| names_resource(one, row, request.subresource))
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }

    fn fits_scope(&self, row: &ResourceInfo, namespace: &str) -> bool {
        let cluster = is_namespace(row) || namespace.is_empty();
        match self.scope.as_str() {
            "" | "*" => true,
            "Namespaced" => !cluster,
            "Cluster" => cluster,
            _ => false,
        }
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

/// `pods`, `pods/status`, `pods/*`, `*/scale`, `*/*`.
fn names_resource(pattern: &str, row: &ResourceInfo, subresource: &str) -> bool {
    let (resource, part) = pattern.split_once('/').unwrap_or((pattern, ""));
    (resource == "*" || resource == row.resource) && (part == "*" || part == subresource)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(resource: &str) -> &'static ResourceInfo {
        atoll_api::kinds::find("", "v1", resource).unwrap()
    }

    #[test]
    fn patterns_of_resources() {
        assert!(names_resource("pods", row("pods"), ""));
        assert!(!names_resource("pods", row("pods"), "status"));
        assert!(names_resource("pods/*", row("pods"), "status"));
        assert!(names_resource("pods/*", row("pods"), ""));
        assert!(names_resource("*", row("pods"), ""));
        assert!(!names_resource("*", row("pods"), "exec"));
        assert!(names_resource("*/exec", row("pods"), "exec"));
        assert!(!names_resource("services/status", row("pods"), "status"));
    }

    #[test]
    fn a_namespace_is_no_namespaced_object() {
        let rule = |scope: &str| Rule { scope: scope.to_owned(), ..Rule::default() };
        assert!(rule("Cluster").fits_scope(row("namespaces"), "x"));
        assert!(!rule("Namespaced").fits_scope(row("namespaces"), "x"));
        assert!(rule("Namespaced").fits_scope(row("pods"), "x"));
        assert!(!rule("Cluster").fits_scope(row("pods"), "x"));
        assert!(rule("*").fits_scope(row("pods"), "x"));
    }
}
