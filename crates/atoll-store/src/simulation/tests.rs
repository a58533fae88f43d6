//! The plans that run with every test: a fault at every disk operation of short runs, and some
//! longer runs with faults at drawn places.

use super::*;

fn check(plan: Plan) -> Report {
    match run(plan) {
        Ok(report) => report,
        Err(violation) => panic!("{plan:?}: {violation}"),
    }
}

fn operations(seed: u64, steps: usize) -> u64 {
    check(Plan { seed, steps, fault: Fault::None }).disk_operations
}

#[test]
fn a_run_repeats_exactly() {
    let plan = Plan { seed: 7, steps: 60, fault: Fault::None };
    assert_eq!(check(plan), check(plan));
}

#[test]
fn without_faults_everything_is_acknowledged_as_the_model_says() {
    for seed in 0..20 {
        let report = check(Plan { seed, steps: 120, fault: Fault::None });
        assert_eq!((report.refused, report.unknown), (0, 0));
        assert!(report.acknowledged > 120);
    }
}

#[test]
fn a_power_cut_at_every_write_and_sync_loses_nothing_acknowledged() {
    for seed in 0..2 {
        let steps = 25;
        for operation in 1..=operations(seed, steps) {
            check(Plan { seed, steps, fault: Fault::CrashAt(operation, Crash::PowerLoss) });
        }
    }
}

#[test]
fn a_power_cut_that_keeps_nothing_unsynced_loses_nothing_acknowledged() {
    let steps = 25;
    for operation in 1..=operations(3, steps) {
        check(Plan { seed: 3, steps, fault: Fault::CrashAt(operation, Crash::PowerLossAll) });
    }
}

#[test]
fn a_kill_at_every_write_and_sync_loses_nothing_acknowledged() {
    let steps = 25;
    for operation in 1..=operations(4, steps) {
        check(Plan { seed: 4, steps, fault: Fault::CrashAt(operation, Crash::Kill) });
    }
}

#[test]
fn a_failed_write_or_sync_is_never_taken_for_durable() {
    let steps = 25;
    for operation in 1..=operations(5, steps) {
        check(Plan { seed: 5, steps, fault: Fault::FailAt(operation) });
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let mut refused = 0;
    for seed in 0..30 {
        let spare_blocks = usize::try_from(seed).unwrap_or(0) * 3;
        let fault = Fault::FullAt { step: 20, spare_blocks };
        refused += check(Plan { seed, steps: 150, fault }).refused;
    }
    assert!(refused > 0, "the disk was never full");
}

#[test]
fn crashes_at_random_in_long_runs() {
    for seed in 100..130 {
        let operation = 30 + seed * 7;
        check(Plan { seed, steps: 200, fault: Fault::CrashAt(operation, Crash::PowerLoss) });
    }
}
