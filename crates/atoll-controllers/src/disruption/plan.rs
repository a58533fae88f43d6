//! How many of a budget's pods may be away now; decides only.

use crate::pods;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Pod,
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, Time},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// An evicted pod that is still there after this time was not evicted after all. Upstream's
/// number.
const EVICTION_PATIENCE: Duration = Duration::from_secs(2 * 60);
const ALLOWED: &str = "DisruptionAllowed";

/// The status, and when an eviction that was promised should be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: PodDisruptionBudgetStatus,
    pub(super) look_again: Option<Duration>,
}

/// Whether the budget needs to know how many pods the owners want, not only how many there
/// are.
pub(super) fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.clone().unwrap_or_default();
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// `expected` is what the owners want together, where it is needed.
pub(super) fn plan(
    budget: &PodDisruptionBudget,
    selected: &[Arc<Pod>],
    expected: i32,
    now: Timestamp,
) -> Plan {
    let spec = budget.spec.clone().unwrap_or_default();
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(share), _) => (expected, expected.saturating_sub(scaled(share, expected)).max(0)),
        (None, Some(share @ IntOrString::String(_))) => (expected, scaled(share, expected)),
        (None, Some(IntOrString::Int(least))) => (number(selected.len()), *least),
        (None, None) => (0, 0),
    };
    let (disrupted, look_again) = promised(budget, selected, now);
    let healthy = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none()
            && pods::is_ready(pod)
            && !disrupted.contains_key(&pod.name_any())
    };
    let healthy = number(selected.iter().filter(healthy).count());
    let spare = healthy.saturating_sub(desired);
    let allowed = if expected <= 0 { 0 } else { spare.max(0) };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    let status = PodDisruptionBudgetStatus {
        disruptions_allowed: Some(allowed),
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(budget, allowed > 0, reason, "", now)]),
    };
    Plan { status, look_again }
}

/// What stands when the count fails: nobody is evicted.
pub(super) fn fail_safe(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    PodDisruptionBudgetStatus {
        disruptions_allowed: Some(0),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(budget, false, "SyncFailed", why, now)]),
        ..budget.status.clone().unwrap_or_default()
    }
}

/// The evictions that were let through and are still to happen, and when the first of them
/// has had its time.
fn promised(
    budget: &PodDisruptionBudget,
    selected: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let known = budget.status.as_ref().and_then(|status| status.disrupted_pods.clone());
    let mut left = BTreeMap::new();
    let mut look_again: Option<Duration> = None;
    for (name, at) in known.unwrap_or_default() {
        let waits = selected
            .iter()
            .any(|pod| pod.name_any() == name && pod.metadata.deletion_timestamp.is_none());
        let since = Duration::try_from(now.duration_since(at.0)).unwrap_or(Duration::ZERO);
        let rest = EVICTION_PATIENCE.saturating_sub(since);
        if waits && !rest.is_zero() {
            left.insert(name, at);
            look_again = Some(look_again.map_or(rest, |known| known.min(rest)));
        }
    }
    (left, look_again)
}

/// The number that a share stands for, rounded up.
fn scaled(share: &IntOrString, total: i32) -> i32 {
    match share {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| digits.parse::<i64>().ok());
            let product = i64::from(total).saturating_mul(percent.unwrap_or(0));
            i32::try_from(product.saturating_add(99).div_euclid(100)).unwrap_or(i32::MAX)
        }
    }
}

fn condition(
    budget: &PodDisruptionBudget,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Condition {
    let status = if allowed { "True" } else { "False" };
    let known = budget.status.as_ref().and_then(|status| status.conditions.as_ref());
    let known =
        known.into_iter().flatten().find(|one| one.type_ == ALLOWED && one.status == status);
    Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: known.map_or(Time(now), |known| known.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({ "metadata": { "name": "b", "generation": 2 },
            "spec": spec, "status": status }))
        .unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({ "metadata": { "name": name },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] } }))
            .unwrap(),
        )
    }

    fn counts(spec: Value, pods: &[Arc<Pod>], expected: i32) -> (i32, i32, i32, i32) {
        let now = Timestamp::UNIX_EPOCH;
        let status = plan(&budget(spec, Value::Null), pods, expected, now).status;
        let [allowed, healthy, desired, expected] = [
            status.disruptions_allowed,
            status.current_healthy,
            status.desired_healthy,
            status.expected_pods,
        ]
        .map(|count| count.unwrap_or(0));
        (allowed, healthy, desired, expected)
    }

    #[test]
    fn a_budget_is_a_number_or_a_share_of_what_the_owners_want() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        assert_eq!(counts(json!({ "minAvailable": 1 }), &pods, 9), (1, 2, 1, 3));
        assert_eq!(counts(json!({ "minAvailable": "50%" }), &pods, 3), (0, 2, 2, 3));
        assert_eq!(counts(json!({ "maxUnavailable": 1 }), &pods, 3), (0, 2, 2, 3));
        assert_eq!(counts(json!({ "maxUnavailable": "34%" }), &pods, 3), (1, 2, 1, 3));
        assert_eq!(counts(json!({ "maxUnavailable": 5 }), &[], 0), (0, 0, 0, 0));
        assert_eq!(counts(json!({}), &pods, 3), (0, 2, 0, 0));
    }

    #[test]
    fn a_promised_eviction_counts_until_it_has_had_its_time() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let status = json!({ "disruptedPods": { "a": at.to_string(), "gone": at.to_string() },
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0 });
        let budget = budget(json!({ "minAvailable": 1 }), status);
        let pods = [pod("a", true), pod("b", true)];
        let soon = plan(&budget, &pods, 0, at + Duration::from_secs(30));
        assert_eq!(
            (soon.status.disruptions_allowed, soon.status.current_healthy),
            (Some(0), Some(1))
        );
        assert_eq!(soon.look_again, Some(Duration::from_secs(90)));
        assert_eq!(soon.status.disrupted_pods.unwrap().len(), 1);
        let late = plan(&budget, &pods, 0, at + Duration::from_secs(121));
        assert_eq!((late.status.disruptions_allowed, late.status.disrupted_pods), (Some(1), None));
    }
}
