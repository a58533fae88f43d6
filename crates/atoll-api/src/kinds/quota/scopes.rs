//! Which objects a quota is about: its scopes and its scope selector.

use serde_json::Value;

use crate::access::Access as _;
use crate::kinds::pod::qos;

/// Whether the object falls under every scope of the quota. Scopes are about pods, but for the
/// one about classes of volume attributes, which is about claims.
#[must_use]
pub fn covers(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let named = spec.items("scopes").iter().filter_map(Value::as_str);
    let expressions = spec["scopeSelector"].items("matchExpressions");
    let kind = match (group, resource) {
        ("", "pods") => Subject::Pod,
        ("", "persistentvolumeclaims") => Subject::Claim,
        _ => Subject::Other,
    };
    named
        .map(|scope| (scope, "Exists", &[] as &[Value]))
        .chain(
            expressions
                .iter()
                .map(|one| (one.text("scopeName"), one.text("operator"), one.items("values"))),
        )
        .all(|(scope, operator, values)| match (kind, scope) {
            (Subject::Pod, "VolumeAttributesClass") | (Subject::Other, _) => false,
            (Subject::Pod, _) => pod(object, scope, operator, values),
            (Subject::Claim, "VolumeAttributesClass") => {
                let class = object["spec"].text("volumeAttributesClassName");
                selects(class, operator, values)
            }
            (Subject::Claim, _) => false,
        })
}

#[derive(Clone, Copy)]
enum Subject {
    Pod,
    Claim,
    Other,
}

fn pod(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let spec = &pod["spec"];
    let terminating = spec.int("activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => qos::class(pod) == "BestEffort",
        "NotBestEffort" => qos::class(pod) != "BestEffort",
        "PriorityClass" => selects(spec.text("priorityClassName"), operator, values),
        "CrossNamespacePodAffinity" => crosses_namespaces(spec),
        _ => false,
    }
}

/// A selector's requirement on a value that may be missing.
fn selects(value: &str, operator: &str, values: &[Value]) -> bool {
    let listed = || values.iter().any(|one| one == value);
    match operator {
        "Exists" => !value.is_empty(),
        "DoesNotExist" => value.is_empty(),
        "In" => !value.is_empty() && listed(),
        "NotIn" => value.is_empty() || !listed(),
        _ => false,
    }
}

fn crosses_namespaces(spec: &Value) -> bool {
    let crosses =
        |term: &Value| !term.items("namespaces").is_empty() || term.has("namespaceSelector");
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &spec["affinity"][*kind];
        affinity.items("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || affinity
                .items("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|one| crosses(&one["podAffinityTerm"]))
    })
}
