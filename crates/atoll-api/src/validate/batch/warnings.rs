//! Warnings of Jobs and CronJobs.

use serde_json::Value;

use crate::access::Access as _;
use crate::field::Path;
use crate::names;
use crate::validate::warnings::pod_like;

const COMPLETIONS_MANY: i64 = 100_000;
const PARALLELISM_MANY: i64 = 10_000;

pub(crate) fn job(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        name(new, &mut warnings);
    }
    spec(&Path::new("spec"), &new["spec"], old.map(|old| &old["spec"]), &mut warnings);
    warnings
}

pub(crate) fn cron_job(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        name(new, &mut warnings);
    }
    let at = Path::new("spec").child("jobTemplate").child("spec");
    let job = |cron_job: &Value| cron_job["spec"]["jobTemplate"]["spec"].clone();
    let before = old.map(job);
    spec(&at, &job(new), before.as_ref(), &mut warnings);
    if new["spec"].text("schedule").contains("TZ") {
        warnings.push(
            "spec.schedule: CRON_TZ or TZ used in spec.schedule is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                .to_owned(),
        );
    }
    warnings
}

fn name(object: &Value, warnings: &mut Vec<String>) {
    let faults = names::dns1123_label(object["metadata"].text("name"));
    if !faults.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising \
             behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
}

fn spec(at: &Path, spec: &Value, old: Option<&Value>, warnings: &mut Vec<String>) {
    let many = spec.int("completions").unwrap_or(0) > COMPLETIONS_MANY
        && spec.int("parallelism").unwrap_or(0) > PARALLELISM_MANY;
    if spec.text("completionMode") == "Indexed" && many {
        warnings.push(
            "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher \
             than 10^4, Kubernetes might not be able to track completedIndexes when a big number of \
             indexes fail"
                .to_owned(),
        );
    }
    // A template that stays as it is was warned of before.
    if old.is_none_or(|old| old["template"] != spec["template"]) {
        pod_like(&at.child("template"), &spec["template"], warnings);
    }
}
