//! Jobs and CronJobs.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workload::containers;
use super::{
    AGE, Column, NAME, age, boolean, human_duration, integer, name, seconds_between, since, text,
};
use crate::access::Access as _;
use crate::kinds::batch::holds;
use crate::kinds::scale::selector_text;

const CONTAINERS: Column = text("Containers", "Names of each container in the template.").wide();
const IMAGES: Column =
    text("Images", "Images referenced by each container in the template.").wide();
const SELECTOR: Column =
    text("Selector", "A label query over pods that should match the pod count.").wide();

pub(crate) const JOB: &[Column] = &[
    NAME,
    text("Status", "Status of the job."),
    text("Completions", "How many pods have succeeded, of how many are wanted."),
    text("Duration", "Time required to complete the job."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
    text("Timezone", "The time zone name for the given schedule."),
    boolean("Suspend", "Whether subsequent executions are suspended."),
    integer("Active", "Jobs that are running now."),
    text("Last Schedule", "When a job was last scheduled."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) fn job(job: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &job["spec"];
    let (names, images) = containers(spec);
    vec![
        name(job),
        json!(state(job)),
        json!(completions(job)),
        json!(duration(&job["status"], now)),
        age(job, now),
        json!(names),
        json!(images),
        json!(selector(&spec["selector"])),
    ]
}

pub(crate) fn cron_job(cron_job: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&cron_job["spec"], &cron_job["status"]);
    let job = &spec["jobTemplate"]["spec"];
    let (names, images) = containers(job);
    let last = status.opt_text("lastScheduleTime");
    let suspend = match spec.opt_flag("suspend") {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    vec![
        name(cron_job),
        json!(spec.text("schedule")),
        json!(spec.opt_text("timeZone").unwrap_or("<none>")),
        json!(suspend),
        json!(status.items("active").len()),
        json!(last.map_or_else(|| "<none>".to_owned(), |at| since(at, now))),
        age(cron_job, now),
        json!(names),
        json!(images),
        json!(selector(&job["selector"])),
    ]
}

fn state(job: &Value) -> &'static str {
    let states = [("Complete", "Complete"), ("Failed", "Failed")];
    if let Some((_, word)) = states.iter().find(|(condition, _)| holds(job, condition)) {
        return word;
    }
    if job["metadata"].has("deletionTimestamp") {
        return "Terminating";
    }
    match ["Suspended", "FailureTarget", "SuccessCriteriaMet"].iter().find(|one| holds(job, one)) {
        Some(condition) => condition,
        None => "Running",
    }
}

fn completions(job: &Value) -> String {
    let (spec, done) = (&job["spec"], job["status"].int("succeeded").unwrap_or(0));
    match (spec.int("completions"), spec.int("parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{done}/1 of {parallelism}"),
        (None, _) => format!("{done}/1"),
    }
}

fn duration(status: &Value, now: Timestamp) -> String {
    let time = |field: &str| status.text(field).parse::<Timestamp>().ok();
    time("startTime").map_or_else(String::new, |start| {
        human_duration(seconds_between(start, time("completionTime").unwrap_or(now)))
    })
}

fn selector(selector: &Value) -> String {
    let text = selector_text(selector);
    if text.is_empty() { "<none>".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: Value) -> Vec<Value> {
        let spec = json!({"completions": 3, "parallelism": 2});
        let now = "2026-01-01T00:01:40Z".parse().unwrap();
        job(&json!({"metadata": {"name": "j"}, "spec": spec, "status": status}), now)
    }

    #[test]
    fn a_job_says_how_far_it_is() {
        let running = row(json!({"startTime": "2026-01-01T00:00:00Z", "succeeded": 1}));
        assert_eq!(running[1..4], [json!("Running"), json!("1/3"), json!("100s")]);
        let done = row(json!({"startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:00:07Z", "succeeded": 3,
            "conditions": [{"type": "Complete", "status": "True"}]}));
        assert_eq!(done[1..4], [json!("Complete"), json!("3/3"), json!("7s")]);
        let suspended = row(json!({"conditions": [{"type": "Suspended", "status": "True"}]}));
        assert_eq!(suspended[1..4], [json!("Suspended"), json!("0/3"), json!("")]);
    }
}
