//! Starts, missed ones, concurrency and history.

use super::*;
use serde_json::{Value, json};

fn cron_job(more: Value) -> CronJob {
    let mut object = json!({
        "metadata": { "name": "c", "uid": "c-1", "creationTimestamp": "2026-01-01T00:00:30Z" },
        "spec": { "schedule": "* * * * *", "concurrencyPolicy": "Allow", "jobTemplate": {},
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1 },
    });
    for (key, value) in more["spec"].as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object["status"] = more["status"].clone();
    serde_json::from_value(object).unwrap()
}

fn job(name: &str, condition: &str) -> Arc<Job> {
    let start = format!("2026-01-01T00:0{}:00Z", name.len());
    let conditions = if condition.is_empty() {
        json!([])
    } else {
        json!([{ "type": condition, "status": "True" }])
    };
    Arc::new(
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name },
            "status": { "startTime": start, "completionTime": start, "conditions": conditions },
        }))
        .unwrap(),
    )
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.remarks.iter().map(|remark| remark.reason).collect()
}

#[test]
fn a_start_is_named_after_its_minute() {
    let cron_job = cron_job(json!({}));
    let early = plan(&cron_job, &[], at("2026-01-01T00:00:45Z"));
    assert_eq!(early.start, None);
    assert_eq!(early.look_again, Some(Duration::from_millis(15_100)));
    let due = plan(&cron_job, &[], at("2026-01-01T00:01:00Z"));
    assert_eq!(due.start, Some(at("2026-01-01T00:01:00Z")));
    assert_eq!(job_name(&cron_job, due.start.unwrap()), "c-29453761");
}

#[test]
fn one_start_is_made_once() {
    let status = json!({ "lastScheduleTime": "2026-01-01T00:01:00Z" });
    let cron_job = cron_job(json!({ "status": status }));
    assert_eq!(plan(&cron_job, &[], at("2026-01-01T00:01:50Z")).start, None);
    assert!(plan(&cron_job, &[], at("2026-01-01T00:02:10Z")).start.is_some());
}

#[test]
fn of_missed_starts_only_the_last_is_made_up_for() {
    let late = plan(&cron_job(json!({})), &[], at("2026-01-01T02:00:10Z"));
    assert_eq!(late.start, Some(at("2026-01-01T02:00:00Z")));
    assert_eq!(reasons(&late), ["TooManyMissedTimes"]);
    let with_deadline = cron_job(json!({ "spec": { "startingDeadlineSeconds": 120 } }));
    let late = plan(&with_deadline, &[], at("2026-01-01T02:00:10Z"));
    assert_eq!((late.start.is_some(), reasons(&late)), (true, vec![]));
    let hourly =
        cron_job(json!({ "spec": { "startingDeadlineSeconds": 5, "schedule": "@hourly" } }));
    assert_eq!(plan(&hourly, &[], at("2026-01-01T02:00:10Z")).start, None);
}

#[test]
fn a_running_job_forbids_or_is_replaced() {
    let status = json!({ "active": [{ "name": "a", "uid": "a" }] });
    let running = [job("a", "")];
    let with = |policy: &str| {
        let spec = json!({ "concurrencyPolicy": policy });
        let cron_job = cron_job(json!({ "spec": spec, "status": status }));
        plan(&cron_job, &running, at("2026-01-01T00:05:00Z"))
    };
    assert!(with("Allow").start.is_some() && with("Allow").replaced.is_empty());
    let forbidden = with("Forbid");
    assert_eq!((forbidden.start, reasons(&forbidden)), (None, vec!["JobAlreadyActive"]));
    assert_eq!(with("Replace").replaced, ["a"]);
}

#[test]
fn finished_jobs_leave_the_active_list_and_the_oldest_go() {
    let status = json!({ "active": [{ "name": "aa", "uid": "aa" }, { "name": "x", "uid": "x" }] });
    let cron_job = cron_job(json!({ "status": status, "spec": { "suspend": true } }));
    let owned = [job("a", "Complete"), job("aa", "Complete"), job("bbb", "Failed")];
    let plan = plan(&cron_job, &owned, at("2026-01-01T00:09:00Z"));
    assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
    assert_eq!(plan.status.active, None);
    assert_eq!(plan.status.last_successful_time.unwrap().0, at("2026-01-01T00:02:00Z"));
    assert_eq!(plan.old.iter().map(|job| job.name_any()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(plan.start, None);
}

#[test]
fn a_schedule_that_is_none_is_said_and_starts_nothing() {
    let cron_job = cron_job(json!({ "spec": { "schedule": "x" } }));
    let plan = plan(&cron_job, &[], at("2026-01-01T00:09:00Z"));
    assert_eq!((plan.start, reasons(&plan)), (None, vec!["UnparseableSchedule"]));
}
