//! podFailurePolicy and successPolicy: what a failed pod, or a set of indexes, means.

use super::facts::{container_statuses, spec};
use atoll_api::kinds::batch::indexes::Indexes;
use k8s_openapi::api::{
    batch::v1::{
        Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
        PodFailurePolicyRule,
    },
    core::v1::{ContainerStatus, Pod},
};
use kube::ResourceExt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As without any policy.
    Count,
    Ignore,
    FailIndex,
    /// With the message for the Job's condition.
    FailJob(String),
}

/// The first rule that matches decides.
pub(super) fn verdict(job: &Job, pod: &Pod) -> Verdict {
    let Some(policy) = spec(job).pod_failure_policy.as_ref() else { return Verdict::Count };
    for (position, rule) in policy.rules.iter().enumerate() {
        if let Some(what) = matched(rule, pod) {
            return match rule.action.as_str() {
                "Ignore" => Verdict::Ignore,
                "FailIndex" => Verdict::FailIndex,
                "FailJob" => {
                    Verdict::FailJob(format!("{what} matching FailJob rule at index {position}"))
                }
                _ => Verdict::Count,
            };
        }
    }
    Verdict::Count
}

fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let whose = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = container_statuses(pod).find_map(|one| exit(one, codes))?;
        return Some(format!("Container {container} for pod {whose} failed with exit code {code}"));
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is = |kind: &str, status: &str, pattern: &PodFailurePolicyOnPodConditionsPattern| {
        pattern.type_ == kind && pattern.status.as_deref().unwrap_or("True") == status
    };
    let found = conditions.into_iter().find(|condition| {
        patterns.iter().any(|pattern| is(&condition.type_, &condition.status, pattern))
    })?;
    Some(format!("Pod {whose} has condition {}", found.type_))
}

fn exit<'a>(
    status: &'a ContainerStatus,
    codes: &PodFailurePolicyOnExitCodesRequirement,
) -> Option<(&'a str, i32)> {
    let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = codes.container_name.as_ref().is_none_or(|name| *name == status.name);
    let listed = codes.values.contains(&code);
    let wanted = match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (named && code != 0 && wanted).then_some((status.name.as_str(), code))
}

/// The message when enough indexes have succeeded.
pub(super) fn success(job: &Job, completed: &Indexes) -> Option<String> {
    let policy = spec(job).success_policy.as_ref().filter(|_| !completed.is_empty())?;
    let completions = spec(job).completions.unwrap_or(0);
    let enough = |count: Option<i32>, have: usize| {
        count.is_some_and(|count| usize::try_from(count).is_ok_and(|count| have >= count))
    };
    let position = policy.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::read(text, completions);
            let have = wanted.common(completed);
            !wanted.is_empty() && (have == wanted.len() || enough(rule.succeeded_count, have))
        }
        None => enough(rule.succeeded_count, completed.len()),
    })?;
    Some(format!("Matched rules at index {position}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(spec: serde_json::Value) -> Job {
        serde_json::from_value(json!({ "metadata": { "name": "j" }, "spec": spec })).unwrap()
    }

    fn pod(code: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "j-x", "namespace": "default" },
            "status": { "phase": "Failed",
                "conditions": [{ "type": "DisruptionTarget", "status": "True" }],
                "containerStatuses": [{ "name": "c", "image": "i", "imageID": "", "ready": false,
                    "restartCount": 0, "state": { "terminated": { "exitCode": code } } }] },
        }))
        .unwrap()
    }

    fn rules(rules: serde_json::Value) -> Job {
        job(json!({ "template": {}, "podFailurePolicy": { "rules": rules } }))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let job = rules(json!([
            { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [42] } },
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        ]));
        assert_eq!(
            verdict(&job, &pod(42)),
            Verdict::FailJob(
                "Container c for pod default/j-x failed with exit code 42 matching FailJob rule at index 0".into()
            )
        );
        assert_eq!(verdict(&job, &pod(1)), Verdict::Ignore);
    }

    #[test]
    fn a_container_that_ended_well_matches_nothing() {
        let job = rules(json!([
            { "action": "FailIndex", "onExitCodes": { "operator": "NotIn", "values": [1] } },
        ]));
        assert_eq!(verdict(&job, &pod(0)), Verdict::Count);
        assert_eq!(verdict(&job, &pod(2)), Verdict::FailIndex);
    }

    #[test]
    fn success_is_a_number_or_a_set_of_indexes() {
        let job = job(json!({ "template": {}, "completions": 5, "completionMode": "Indexed",
            "successPolicy": { "rules": [
                { "succeededIndexes": "0,2-4", "succeededCount": 2 }, { "succeededCount": 4 }] } }));
        let done = |indexes: &[i32]| success(&job, &indexes.iter().copied().collect());
        assert_eq!(done(&[]), None);
        assert_eq!(done(&[1, 2]), None);
        assert_eq!(done(&[2, 3]), Some("Matched rules at index 0".into()));
    }
}
