//! CronJobs: started by the clock, and what happens when a start meets one that still runs.

use super::{MINUTES, apply, job, says, wait};
use atoll_e2e::{Cluster, eventually};
use serde_json::{Value, json};

/// What each does when its time comes again.
const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];

fn cron_job(name: &str, script: &str, more: &Value) -> Value {
    let template = job("", script, &json!({}))["spec"].clone();
    let mut object = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": { "name": name },
        "spec": { "schedule": "*/1 * * * *", "jobTemplate": { "spec": template } },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

pub(super) fn begins(cluster: &Cluster) {
    apply(cluster, &cron_job("minutely", "date", &json!({ "timeZone": "Asia/Tokyo" })));
    for policy in POLICIES {
        let more = json!({ "concurrencyPolicy": policy });
        apply(cluster, &cron_job(&policy.to_lowercase(), "sleep 600", &more));
    }
    apply(cluster, &cron_job("suspended", "date", &json!({ "suspend": true })));
    let refused = cluster
        .kubectl(&["create", "cronjob", "wrong", "--image=x", "--schedule=61 * * * *"])
        .fails();
    assert!(refused.contains("end of range (61) above maximum (59): 61"), "{refused}");
}

pub(super) fn ends(cluster: &Cluster) {
    let name = eventually(MINUTES, "a minute begins a job", || {
        started(cluster, "minutely").into_iter().next().ok_or_else(|| "none".to_owned())
    });
    wait(cluster, &name, "complete");
    let job = cluster.json(&["job", &name]);
    let at = &job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
    assert!(at.as_str().unwrap().ends_with(":00+09:00"), "{at}");
    assert_eq!(job["metadata"]["ownerReferences"][0]["name"], "minutely");
    says(cluster, "minutely", &format!("SawCompletedJob: Saw completed job: {name}"));
    let cron_job = cluster.json(&["cronjob", "minutely"]);
    assert!(cron_job["status"]["lastSuccessfulTime"].is_string(), "{}", cron_job["status"]);
    let row = cluster.kubectl(&["get", "cronjob", "minutely", "--no-headers"]).ok();
    assert!(row.contains("Asia/Tokyo") && row.contains("False"), "{row}");
    cluster.kubectl(&["create", "job", "--from=cronjob/minutely", "by-hand"]).ok();
    wait(cluster, "by-hand", "complete");
    a_second_minute(cluster);
}

/// Names of the Jobs that a CronJob has.
fn started(cluster: &Cluster, of: &str) -> Vec<String> {
    let jobs = cluster.json(&["jobs"]);
    let all = jobs["items"].as_array().into_iter().flatten();
    let own = all.filter(|job| job["metadata"]["ownerReferences"][0]["name"] == of);
    own.map(|job| job["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

fn active(cluster: &Cluster, of: &str) -> Vec<String> {
    let cron_job = cluster.json(&["cronjob", of]);
    let active = cron_job["status"]["active"].as_array().cloned().unwrap_or_default();
    active.iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect()
}

/// The first Jobs of all three still run.
fn a_second_minute(cluster: &Cluster) {
    let first = started(cluster, "replace");
    let both = eventually(MINUTES, "a second job beside the first", || {
        let started = started(cluster, "allow");
        if started.len() >= 2 { Ok(started) } else { Err(format!("{started:?}")) }
    });
    assert_eq!(active(cluster, "allow").len(), both.len());
    eventually(super::SOON, "another in the place of the first", || {
        let now = started(cluster, "replace");
        if now.len() == 1 && now != first { Ok(()) } else { Err(format!("{now:?}")) }
    });
    says(
        cluster,
        "forbid",
        "JobAlreadyActive: Not starting job because prior execution is running",
    );
    assert_eq!((started(cluster, "forbid").len(), active(cluster, "forbid").len()), (1, 1));
    assert_eq!(started(cluster, "suspended"), Vec::<String>::new());
    cluster.kubectl(&["delete", "cronjobs", "--all", "--wait=false"]).ok();
}
