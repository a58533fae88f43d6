//! CronJobs: schedule, time zone, limits, and the template of a Job.

use serde_json::Value;

use super::job_spec;
use crate::access::Access as _;
use crate::cron::{self, Schedule};
use crate::field::{Error, Path};
use crate::validate::{not_negative, one_of};

const POLICIES: [&str; 3] = ["Allow", "Forbid", "Replace"];
/// Jobs are named after their CronJob, a dash and ten digits.
const NAME_LENGTH_MAX: usize = 52;
/// The longest part of a time zone's name.
const ZONE_PART_MAX: usize = 14;

pub(crate) fn create(cron_job: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    spec(cron_job, None, &mut errors);
    let name = cron_job["metadata"].text("name");
    if name.len() > NAME_LENGTH_MAX {
        let text = format!("must be no more than {NAME_LENGTH_MAX} characters");
        errors.push(Path::new("metadata").child("name").invalid(name, text));
    }
    errors
}

/// Longer names from before the limit stay.
pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    spec(new, Some(old), &mut errors);
    errors
}

fn spec(cron_job: &Value, old: Option<&Value>, errors: &mut Vec<Error>) {
    let (at, spec) = (Path::new("spec"), &cron_job["spec"]);
    let text = spec.text("schedule");
    if text.is_empty() {
        errors.push(at.child("schedule").required(""));
    } else {
        schedule(&at.child("schedule"), spec, old, errors);
    }
    let not_below_zero = |field: &str, errors: &mut Vec<Error>| {
        not_negative(&at.child(field), spec.int(field).unwrap_or(0), errors);
    };
    not_below_zero("startingDeadlineSeconds", errors);
    if old.is_none_or(|old| old["spec"].get("timeZone") != spec.get("timeZone"))
        && let Some(zone) = spec.opt_text("timeZone")
    {
        time_zone(&at.child("timeZone"), zone, errors);
    }
    let policy_at = at.child("concurrencyPolicy");
    one_of(&policy_at, spec.text("concurrencyPolicy"), &POLICIES, "", errors);
    template(&at.child("jobTemplate").child("spec"), &spec["jobTemplate"]["spec"], errors);
    not_below_zero("successfulJobsHistoryLimit", errors);
    not_below_zero("failedJobsHistoryLimit", errors);
}

fn template(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    job_spec(at, spec, errors);
    if spec.has("selector") {
        let text = "`selector` will be auto-generated";
        errors.push(at.child("selector").invalid(spec["selector"].clone(), text));
    }
    if spec.flag("manualSelector") {
        errors.push(at.child("manualSelector").not_supported(true, &["nil", "false"]));
    }
}

fn schedule(at: &Path, spec: &Value, old: Option<&Value>, errors: &mut Vec<Error>) {
    let text = spec.text("schedule");
    if let Err(error) = Schedule::parse(text) {
        errors.push(at.invalid(text, error.to_string()));
    }
    let had_zone = old.is_some_and(|old| old["spec"].text("schedule").contains("TZ"));
    match (text.contains("TZ"), had_zone) {
        (true, true) if spec.has("timeZone") => {
            let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.push(at.invalid(text, why));
        }
        (true, false) => {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(at.invalid(text, why));
        }
        _ => {}
    }
}

fn time_zone(at: &Path, zone: &str, errors: &mut Vec<Error>) {
    if zone.is_empty() {
        errors.push(at.invalid(zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let fits = |one: u8| one.is_ascii_alphanumeric() || b".-_+".contains(&one);
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && !part.starts_with('-')
            && part.len() <= ZONE_PART_MAX
            && part.bytes().all(fits)
    };
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(is_part) {
        errors.push(at.invalid(zone, unknown));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let text = "timeZone must be an explicit time zone as defined in \
                    https://www.iana.org/time-zones";
        errors.push(at.invalid(zone, text));
        return;
    }
    if cron::zone(zone).is_none() {
        errors.push(at.invalid(zone, unknown));
    }
}
