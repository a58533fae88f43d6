//! The plans that run with every test, and planted bugs that must be noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn check(plan: ClusterPlan) -> ClusterReport {
    match run(plan) {
        Ok(report) => report,
        Err(violation) => panic!("{plan:?}: {violation}"),
    }
}

/// One of so many, so that the parts run beside each other.
fn part(first: u64, count: u64) -> ClusterReport {
    let mut sum = ClusterReport::default();
    for seed in first..first + count {
        let report = check(ClusterPlan::of(seed));
        sum.snapshots += report.snapshots;
        sum.elections += report.elections;
        sum.changes += report.changes;
        sum.leases_ended += report.leases_ended;
        sum.unknown += report.unknown;
        sum.acknowledged += report.acknowledged;
        sum.reads += report.reads;
        sum.crashes += report.crashes;
        sum.events += report.events;
    }
    sum
}

#[test]
fn a_run_repeats_exactly() {
    let plan = ClusterPlan::of(6);
    assert_eq!(check(plan), check(plan));
}

#[test]
fn first_seeds() {
    let sum = part(0, 40);
    println!("{sum:?}");
    assert!(sum.snapshots > 10 && sum.leases_ended > 10 && sum.changes > 10, "{sum:?}");
}

#[track_caller]
fn assert_noticed(bug: Bug) {
    const RUNS: u64 = 300;
    let noticed = (0..RUNS).find_map(|seed| {
        let plan = ClusterPlan { bug: Some(bug), ..ClusterPlan::of(seed) };
        let outcome = catch_unwind(AssertUnwindSafe(|| run(plan).err()));
        outcome.unwrap_or_else(|_panic| Some("a panic".to_owned()))
    });
    assert!(noticed.is_some(), "nobody noticed");
    println!("{bug:?}: {}", noticed.unwrap_or_default());
}

#[test]
fn a_skipped_sync_is_noticed() {
    assert_noticed(Bug::SkipsSync);
}

#[test]
fn a_read_that_asks_nobody_is_noticed() {
    assert_noticed(Bug::ReadsAlone);
}

#[test]
fn applying_before_the_commit_is_noticed() {
    assert_noticed(Bug::AppliesEarly);
}

#[test]
fn a_torn_tail_that_is_trusted_is_noticed() {
    assert_noticed(Bug::KeepsTornTail);
}

#[test]
fn an_id_that_is_used_again_is_noticed() {
    assert_noticed(Bug::ReusesId);
}

#[test]
fn a_forgotten_vote_is_noticed() {
    assert_noticed(Bug::ForgetsVote);
}
