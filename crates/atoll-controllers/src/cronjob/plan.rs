//! When a CronJob starts its next Job, and which Jobs it forgets or deletes; decides only.

use crate::shared::controller_of;
use atoll_api::cron::{self, Schedule};
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobStatus, Job},
        core::v1::ObjectReference,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;
use std::{sync::Arc, time::Duration};

/// Starts that were missed are counted up to here; beyond it somebody should look at a clock.
const MISSED_MAX: usize = 100;
/// Starts that are looked through from the last one known, to find the last that was due.
const LOOKED_THROUGH_MAX: usize = 10_000;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// After the minute begins, so that the clock is surely in it.
const MARGIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) is_warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    pub(super) remarks: Vec<Remark>,
    /// Finished Jobs beyond the limits of history.
    pub(super) old: Vec<Arc<Job>>,
    /// Running Jobs that the new one replaces, by name.
    pub(super) replaced: Vec<String>,
    /// The time for which a Job is to be created.
    pub(super) start: Option<Timestamp>,
    pub(super) look_again: Option<Duration>,
}

impl Plan {
    fn remark(&mut self, is_warning: bool, reason: &'static str, message: impl Into<String>) {
        self.remarks.push(Remark { is_warning, reason, message: message.into() });
    }
}

/// `owned` are the Jobs that the CronJob controls.
pub(super) fn plan(cron_job: &CronJob, owned: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan {
        status: cron_job.status.clone().unwrap_or_default(),
        old: history(cron_job, owned),
        ..Plan::default()
    };
    follow(owned, &mut plan);
    let spec = cron_job.spec.clone();
    if cron_job.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
        return plan;
    }
    let Some(zone) = zone(cron_job) else {
        let name = spec.time_zone.unwrap_or_default();
        let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
        plan.remark(true, "UnknownTimeZone", message);
        return plan;
    };
    match Schedule::parse(&spec.schedule) {
        Ok(schedule) => due(cron_job, &schedule, &zone, now, &mut plan),
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            plan.remark(true, "UnparseableSchedule", message);
        }
    }
    plan
}

pub(super) fn zone(cron_job: &CronJob) -> Option<TimeZone> {
    cron::zone(cron_job.spec.time_zone.as_deref().unwrap_or_default())
}

/// `<name>-<minutes>`, so that one start never makes two Jobs.
pub(super) fn job_name(cron_job: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron_job.name_any(), at.as_second().div_euclid(60))
}

/// Brings the list of active Jobs up to what has become of them.
fn follow(owned: &[Arc<Job>], plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in owned {
        let (uid, name) = (job.uid().unwrap_or_default(), job.name_any());
        let known = active.iter().any(|one| one.uid.as_deref() == Some(&uid));
        match (known, end(job)) {
            (false, None) => {
                let message =
                    format!("Saw a job that the controller did not create or forgot: {name}");
                plan.remark(true, "UnexpectedJob", message);
            }
            (true, Some(condition)) => {
                active.retain(|one| one.uid.as_deref() != Some(&uid));
                let message = format!("Saw completed job: {name}, condition: {condition}");
                plan.remark(false, "SawCompletedJob", message);
            }
            _ => {}
        }
        if end(job) == Some("Complete") {
            let at = job.status.as_ref().and_then(|status| status.completion_time.clone());
            let last = plan.status.last_successful_time.as_ref();
            if let Some(at) = at.filter(|at| last.is_none_or(|last| last.0 < at.0)) {
                plan.status.last_successful_time = Some(at);
            }
        }
    }
    for lost in active.clone() {
        let there = owned.iter().any(|job| job.uid() == lost.uid);
        if !there {
            active.retain(|one| one.uid != lost.uid);
            let name = lost.name.unwrap_or_default();
            plan.remark(false, "MissingJob", format!("Active job went missing: {name}"));
        }
    }
    plan.status.active = (!active.is_empty()).then_some(active);
}

fn due(cron_job: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp, plan: &mut Plan) {
    let spec = cron_job.spec.clone();
    plan.look_again = schedule.next(now, zone).map(|next| {
        Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO) + MARGIN
    });
    let deadline = spec.starting_deadline_seconds;
    let (last, missed) = latest(cron_job, schedule, zone, deadline, now);
    if missed > MISSED_MAX {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds \
                       or check clock skew";
        plan.remark(true, "TooManyMissedTimes", message);
    }
    let Some(at) = last else { return };
    let late = now.as_second().saturating_sub(at.as_second());
    if deadline.is_some_and(|deadline| late > deadline) {
        let shown = at.to_zoned(zone.clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string();
        let message = format!("Missed scheduled time to start a job: {shown}");
        plan.remark(true, "MissSchedule", message);
        return;
    }
    let name = job_name(cron_job, at);
    let active: Vec<ObjectReference> = plan.status.active.clone().unwrap_or_default();
    let started = plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at)
        || active.iter().any(|one| one.name.as_deref() == Some(&name));
    if started {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency \
                           policy is Forbid";
            plan.remark(false, "JobAlreadyActive", message);
            return;
        }
        Some("Replace") => {
            plan.replaced = active.iter().filter_map(|one| one.name.clone()).collect();
        }
        _ => {}
    }
    plan.start = Some(at);
}

/// The last start that was due, and how many were.
fn latest(
    cron_job: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    deadline: Option<i64>,
    now: Timestamp,
) -> (Option<Timestamp>, usize) {
    let created = cron_job.creation_timestamp().map_or(now, |time| time.0);
    let last = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let mut from = last.map_or(created, |last| last.0);
    if let Some(deadline) = deadline
        && let Ok(earliest) =
            Timestamp::from_second(now.as_second().saturating_sub(deadline).saturating_sub(1))
    {
        from = from.max(earliest);
    }
    let (mut found, mut missed) = (None, 0);
    for _ in 0..LOOKED_THROUGH_MAX {
        match schedule.next(from, zone).filter(|next| *next <= now) {
            Some(next) => (found, missed, from) = (Some(next), missed + 1, next),
            None => return (found, missed),
        }
    }
    // It was away for so long that only the last day matters.
    from = from.max(now.checked_sub(DAY).unwrap_or(from));
    while let Some(next) = schedule.next(from, zone).filter(|next| *next <= now) {
        (found, from) = (Some(next), next);
    }
    (found, missed)
}

/// Finished Jobs beyond the limits, the oldest first.
fn history(cron_job: &CronJob, owned: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let spec = cron_job.spec.clone();
    let limits = [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ];
    let mut old = Vec::new();
    for (condition, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut ended: Vec<Arc<Job>> = owned
            .iter()
            .filter(|job| end(job) == Some(condition) && job.metadata.deletion_timestamp.is_none())
            .cloned()
            .collect();
        ended.sort_by_key(|job| (started_at(job), job.name_any()));
        ended.truncate(ended.len().saturating_sub(limit));
        old.extend(ended);
    }
    old
}

fn started_at(job: &Job) -> Option<Timestamp> {
    let start = job.status.as_ref().and_then(|status| status.start_time.as_ref());
    start.map(|time: &Time| time.0).or_else(|| job.creation_timestamp().map(|time| time.0))
}

/// By which condition a Job has ended.
fn end(job: &Job) -> Option<&'static str> {
    let all = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    let holds =
        |kind: &str| all.into_iter().flatten().any(|one| one.type_ == kind && one.status == "True");
    ["Complete", "Failed"].into_iter().find(|kind| holds(kind))
}

pub(super) fn is_owned(cron_job: &CronJob, job: &Job) -> bool {
    controller_of(job).is_some_and(|owner| Some(&owner.uid) == cron_job.metadata.uid.as_ref())
}

#[cfg(test)]
mod tests;
