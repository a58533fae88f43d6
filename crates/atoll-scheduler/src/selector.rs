//! Label and node selectors against labels.

use k8s_openapi::{
    api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use std::collections::BTreeMap;

pub(crate) type Labels = BTreeMap<String, String>;

/// Whether `labels` satisfy `selector`. An absent selector selects nothing, an empty one
/// everything.
pub(crate) fn label_selector(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    let Some(selector) = selector else { return false };
    let pairs = selector.match_labels.iter().flatten();
    pairs.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|one| {
            let values = one.values.as_deref().unwrap_or_default();
            requirement(labels.get(&one.key), &one.operator, values)
        })
}

/// One term of a node selector: all its requirements hold. An empty term matches nothing.
pub(crate) fn node_term(term: &NodeSelectorTerm, labels: &Labels, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = name.to_owned();
    let holds = |value: Option<&String>, one: &NodeSelectorRequirement| {
        requirement(value, &one.operator, one.values.as_deref().unwrap_or_default())
    };
    expressions.iter().all(|one| holds(labels.get(&one.key), one))
        && fields.iter().all(|one| one.key == "metadata.name" && holds(Some(&name), one))
}

fn requirement(value: Option<&String>, operator: &str, values: &[String]) -> bool {
    let number = |text: &String| text.parse::<i64>().ok();
    let against = || Some((number(value?)?, number(values.first()?)?));
    match operator {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => against().is_some_and(|(value, bound)| value > bound),
        "Lt" => against().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}
