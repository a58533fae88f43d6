//! PodDisruptionBudgets.

use serde_json::Value;

use super::{faults, label_selector, not_negative};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const EVICTION_POLICIES: [&str; 2] = ["AlwaysAllow", "IfHealthyBudget"];

pub(crate) fn budget(budget: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, spec) = (Path::new("spec"), &budget["spec"]);
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let text = "minAvailable and maxUnavailable cannot be both set";
        errors.push(at.invalid(spec.clone(), text));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        share(&at.child(field), &spec[field], &mut errors);
    }
    label_selector(&at.child("selector"), &spec["selector"], &mut errors);
    if let Some(policy) = spec.opt_text("unhealthyPodEvictionPolicy")
        && !EVICTION_POLICIES.contains(&policy)
    {
        let at = at.child("unhealthyPodEvictionPolicy");
        errors.push(at.not_supported(policy, &EVICTION_POLICIES));
    }
    errors
}

pub(crate) fn budget_update(new: &Value, _: &Value) -> Vec<Error> {
    budget(new)
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, status) = (Path::new("status"), &new["status"]);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        not_negative(&at.child(field), status.int(field).unwrap_or(0), &mut errors);
    }
    errors
}

/// A number of pods, or a share of them up to all.
fn share(at: &Path, value: &Value, errors: &mut Vec<Error>) {
    match value {
        Value::Null => {}
        Value::String(text) => {
            let wrong = names::percent(text);
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
            if wrong.is_empty() && percent.is_none_or(|percent| percent > 100) {
                errors.push(at.invalid(text.as_str(), "must not be greater than 100%"));
            }
            faults(at, text, wrong, errors);
        }
        number => not_negative(at, number.as_i64().unwrap_or(0), errors),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(spec: Value) -> Vec<String> {
        budget(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_budget_is_one_number_or_share() {
        assert_eq!(texts(json!({"minAvailable": "50%", "selector": {}})), [""; 0]);
        assert_eq!(
            texts(json!({"minAvailable": 1, "maxUnavailable": 1})),
            [
                "spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set"
            ]
        );
        assert_eq!(
            texts(json!({"maxUnavailable": "101%"})),
            ["spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
        );
        assert_eq!(
            texts(json!({"maxUnavailable": -1})),
            ["spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            texts(json!({"unhealthyPodEvictionPolicy": "x"})),
            [
                "spec.unhealthyPodEvictionPolicy: Unsupported value: \"x\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\""
            ]
        );
    }
}
