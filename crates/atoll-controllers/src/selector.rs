//! metav1.LabelSelector against labels, and who may own what it selects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;

/// Whether `labels` satisfy `selector`. An empty selector selects everything.
pub(crate) fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    contains_all(selector.match_labels.as_ref(), labels)
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|requirement| requirement_holds(requirement, labels))
}

/// Whether every wanted pair is among `labels`.
pub(crate) fn contains_all(
    wanted: Option<&BTreeMap<String, String>>,
    labels: &BTreeMap<String, String>,
) -> bool {
    wanted.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}

fn requirement_holds(
    requirement: &LabelSelectorRequirement,
    labels: &BTreeMap<String, String>,
) -> bool {
    let value = labels.get(&requirement.key);
    let listed =
        || value.is_some_and(|value| requirement.values.iter().flatten().any(|one| one == value));
    match requirement.operator.as_str() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // The API server refuses other operators; selecting nothing is the safe reading.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: serde_json::Value) -> LabelSelector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn not_in_holds_for_objects_without_the_label() {
        let selector = selector(serde_json::json!({
            "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["db"] }],
        }));
        assert!(matches(&selector, &BTreeMap::new()));
        assert!(!matches(&selector, &BTreeMap::from([("tier".into(), "db".into())])));
    }

    #[test]
    fn labels_and_expressions_must_both_hold() {
        let selector = selector(serde_json::json!({
            "matchLabels": { "app": "web" },
            "matchExpressions": [{ "key": "tier", "operator": "Exists" }],
        }));
        let mut labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        assert!(!matches(&selector, &labels));
        labels.insert("tier".into(), "front".into());
        assert!(matches(&selector, &labels));
    }
}
