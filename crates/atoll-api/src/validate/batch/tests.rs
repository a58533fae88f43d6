//! Jobs and CronJobs that are refused, and what may change.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn row(kind: &str) -> &'static kinds::ResourceInfo {
    kinds::find_kind("batch", "v1", kind).unwrap()
}

fn made(kind: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "batch/v1", "kind": kind,
        "metadata": {"name": "j", "namespace": "default"}, "spec": spec,
    });
    (row(kind).hooks.default.unwrap())(&mut object);
    row(kind).prepare_create(&mut object);
    object["metadata"]["uid"] = json!("u-1");
    if let Some(identified) = row(kind).hooks.identified {
        identified(&mut object);
    }
    (row(kind).hooks.default.unwrap())(&mut object);
    object
}

fn job_of(more: Value) -> Value {
    let mut spec = json!({"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    made("Job", spec)
}

fn texts(errors: Vec<Error>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn refused(more: Value) -> Vec<String> {
    texts(row("Job").validate_create(&job_of(more)))
}

#[test]
fn a_job_selects_its_own_pods() {
    let job = job_of(json!({}));
    assert_eq!(texts(row("Job").validate_create(&job)), [""; 0]);
    assert_eq!(
        job["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}})
    );
    let labels = json!({"batch.kubernetes.io/controller-uid": "u-1", "controller-uid": "u-1",
        "batch.kubernetes.io/job-name": "j", "job-name": "j"});
    assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(job["metadata"]["labels"], labels);
}

#[test]
fn a_selector_of_ones_own_is_refused_unless_one_answers_for_it() {
    let selector = json!({"matchLabels": {"a": "b"}});
    let template = json!({"metadata": {"labels": {"a": "b"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let found = refused(json!({"selector": selector, "template": template}));
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("`selector` not auto-generated"), "{found:?}");
    let manual =
        refused(json!({"selector": selector, "template": template, "manualSelector": true}));
    assert_eq!(manual, [""; 0]);
}

#[test]
fn what_is_out_of_rule_is_said_in_upstreams_words() {
    let cases = [
        (
            json!({"parallelism": -1}),
            "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"completionMode": "Indexed", "parallelism": 1}),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            json!({"backoffLimitPerIndex": 1}),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            json!({"managedBy": "me"}),
            "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "FailJob"}]}}),
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and \
             OnPodConditions is required",
        ),
        (
            json!({"podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 1]}}]}}),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered",
        ),
        (
            json!({"completionMode": "Indexed", "completions": 3,
                "successPolicy": {"rules": [{"succeededIndexes": "0-5"}]}}),
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-5\": error parsing \
             succeededIndexes: too large index: \"5\"",
        ),
    ];
    for (more, wanted) in cases {
        assert_eq!(refused(more), [wanted]);
    }
}

#[test]
fn a_template_changes_only_while_the_job_is_suspended() {
    let change = |old: &Value| {
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("1");
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"zone": "a"});
        texts(row("Job").validate_update(&new, old))
    };
    let refused = change(&job_of(json!({})));
    assert!(refused[0].ends_with("field is immutable"), "{refused:?}");
    let mut suspended = job_of(json!({"suspend": true}));
    assert_eq!(change(&suspended), [""; 0]);
    suspended["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "active": 1});
    assert_eq!(change(&suspended).len(), 1);
}

#[test]
fn an_indexed_job_grows_with_its_parallelism() {
    let old = job_of(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    let grown = |parallelism: i64| {
        let mut new = old.clone();
        new["metadata"]["resourceVersion"] = json!("1");
        new["spec"]["completions"] = json!(3);
        new["spec"]["parallelism"] = json!(parallelism);
        texts(row("Job").validate_update(&new, &old))
    };
    assert_eq!(grown(3), [""; 0]);
    assert_eq!(
        grown(2),
        [
            "spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"
        ]
    );
}

#[test]
fn a_finished_job_stays_finished() {
    let mut old = job_of(json!({}));
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    old["status"] = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z",
        "succeeded": 1, "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]});
    let mut new = old.clone();
    new["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(texts(row("Job").validate_status_update(&new, &old)), [""; 0]);
    new["status"]["conditions"] = json!([condition("SuccessCriteriaMet")]);
    let found = texts(row("Job").validate_status_update(&new, &old));
    assert!(
        found.contains(
            &"status.conditions: Invalid value: cannot disable the terminal Complete=True condition".to_owned()
        ),
        "{found:?}"
    );
}

#[test]
fn cron_jobs_need_a_schedule_and_a_zone_that_exist() {
    let cron_job = |schedule: &str, zone: &str| {
        let job = json!({"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}});
        let spec = json!({"schedule": schedule, "timeZone": zone, "jobTemplate": {"spec": job}});
        texts(row("CronJob").validate_create(&made("CronJob", spec)))
    };
    assert_eq!(cron_job("*/5 * * * *", "Europe/Berlin"), [""; 0]);
    assert_eq!(
        cron_job("61 * * * *", "Europe/Atlantis"),
        [
            "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61",
            "spec.timeZone: Invalid value: \"Europe/Atlantis\": unknown time zone Europe/Atlantis"
        ]
    );
    assert_eq!(
        cron_job("TZ=UTC 0 0 * * *", "Etc/UTC"),
        [
            "spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        ]
    );
}
