//! The plans that run with every test: a fault at every disk operation of short runs, and some
//! longer runs with faults at drawn places.

use super::*;

fn check(plan: Plan) -> Report {
    match run(plan) {
        Ok(report) => report,
        Err(violation) => panic!("{plan:?}: {violation}"),
    }
}

/// Enough for segments to end and go, and for flushes; a fault at every operation of it.
const SHORT_STEPS: usize = 24;

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
    let mut rewritten = 0;
    for seed in 0..20 {
        let report = check(Plan { seed, steps: 120, fault: Fault::None });
        assert_eq!((report.refused, report.unknown), (0, 0));
        assert!(report.acknowledged > 120);
        rewritten += report.rewritten;
    }
    assert!(rewritten > 20, "the state file was written anew {rewritten} times");
}

#[test]
fn a_power_cut_at_every_write_and_sync_loses_nothing_acknowledged() {
    for seed in 1..3 {
        let steps = SHORT_STEPS;
        for operation in 1..=operations(seed, steps) {
            check(Plan { seed, steps, fault: Fault::CrashAt(operation, Crash::PowerLoss) });
        }
    }
}

#[test]
fn a_power_cut_that_keeps_nothing_unsynced_loses_nothing_acknowledged() {
    let steps = SHORT_STEPS;
    for operation in 1..=operations(3, steps) {
        check(Plan { seed: 3, steps, fault: Fault::CrashAt(operation, Crash::PowerLossAll) });
    }
}

#[test]
fn a_kill_at_every_write_and_sync_loses_nothing_acknowledged() {
    let steps = SHORT_STEPS;
    for operation in 1..=operations(4, steps) {
        check(Plan { seed: 4, steps, fault: Fault::CrashAt(operation, Crash::Kill) });
    }
}

#[test]
fn a_failed_write_or_sync_is_never_taken_for_durable() {
    let steps = SHORT_STEPS;
    for operation in 1..=operations(5, steps) {
        check(Plan { seed: 5, steps, fault: Fault::FailAt(operation) });
    }
}

/// Later segments stay as well, or there would be a gap.
#[test]
fn a_segment_that_cannot_be_removed_is_not_missed_afterwards() {
    for operation in 290..320 {
        check(Plan { seed: 148, steps: 80, fault: Fault::FailAt(operation) });
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
fn a_bit_changed_anywhere_in_a_log_that_was_quiet_is_refused() {
    for seed in 0..80 {
        let step = 5 + usize::try_from(seed).unwrap_or(0) % 30;
        check(Plan { seed, steps: 40, fault: Fault::DamageAt(step) });
    }
}

#[test]
fn short_runs_end_segments_release_them_and_flush() {
    for seed in 1..6 {
        let plan = Plan { seed, steps: 0, fault: Fault::None };
        let mut run = Run::start(plan, Planted::default()).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..SHORT_STEPS {
            run.step().unwrap();
            names.extend(run.disk.list("wal").unwrap());
        }
        let left = run.disk.list("wal").unwrap().len();
        assert!(names.len() >= 3 && left < names.len(), "{seed}: {left} of {names:?}");
    }
}

#[test]
fn crashes_at_random_in_long_runs() {
    for seed in 100..130 {
        let operation = 30 + seed * 7;
        check(Plan { seed, steps: 200, fault: Fault::CrashAt(operation, Crash::PowerLoss) });
    }
}

#[test]
fn a_store_that_nobody_asks_never_wakes() {
    let mut run =
        Run::start(Plan { seed: 1, steps: 0, fault: Fault::None }, Planted::default()).unwrap();
    let put = PutRequest { key: "a".into(), value: "1".into(), lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    run.submit(&[(0, Command::Txn(txn)), (0, Command::Compact { revision: 2 })]);
    let mut wakes = 0;
    while let Some(at) = run.core.as_ref().unwrap().next_wake() {
        wakes += 1;
        assert!(wakes < 10, "it wakes again at {at:?}");
        let wait = at.saturating_sub(run.clock.now());
        run.clock.advance(wait);
        let core = run.core.as_mut().unwrap();
        core.on_timer();
        if let Some(job) = core.start_flush(false) {
            let result = core.state_writer().flush(&job);
            core.finish_flush(result);
        }
    }
    // The seal, the state file, and a note of how far it had come by then.
    assert_eq!(wakes, 3);
    assert!(run.clock.now() >= config(1).flush_every);
}

#[test]
fn few_changes_wait_longer_for_the_state_file_than_many() {
    let put = |bytes: usize| {
        let (key, value) = ("a".into(), vec![b'v'; bytes].into());
        let put = Op::Put(PutRequest { key, value, lease: 0, prev_kv: false });
        (0, Command::Txn(Txn { success: vec![put], ..Txn::default() }))
    };
    for (bytes, due_after) in [(10, config(1).flush_few_every), (600_000, config(1).flush_every)] {
        let mut run =
            Run::start(Plan { seed: 1, steps: 0, fault: Fault::None }, Planted::default()).unwrap();
        // A new folder's first state does not wait.
        run.clock.advance(config(1).flush_every);
        let core = run.core.as_mut().unwrap();
        let job = core.start_flush(false).unwrap();
        let result = core.state_writer().flush(&job);
        core.finish_flush(result);
        let start = run.clock.now();
        run.submit(&[put(bytes)]);
        // A write of the log that is not sealed yet would take them along.
        run.clock.advance(Duration::from_millis(100));
        run.core.as_mut().unwrap().on_timer();
        let due = start + due_after;
        run.clock.advance(due - Duration::from_secs(1) - run.clock.now());
        assert!(run.core.as_mut().unwrap().start_flush(false).is_none(), "{bytes}");
        run.clock.advance(Duration::from_secs(1));
        assert!(run.core.as_mut().unwrap().start_flush(false).is_some(), "{bytes}");
    }
}

#[test]
fn a_lease_that_nobody_keeps_alive_ends_by_itself_and_through_the_log() {
    let mut run =
        Run::start(Plan { seed: 2, steps: 0, fault: Fault::None }, Planted::default()).unwrap();
    let put = PutRequest { key: "a".into(), value: "1".into(), lease: 5, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    run.submit(&[(0, Command::LeaseGrant { id: 5, ttl: 30 }), (0, Command::Txn(txn))]);
    // A restart gives it its full time again, but not more.
    run.clock.advance(Duration::from_secs(20));
    run.stop();
    run.disk.restart(Crash::PowerLoss, 0);
    run.open().unwrap();
    let revision = |run: &Run| read(&run.core.as_ref().unwrap().shared.keyspaces[0].state).revision;
    run.clock.advance(Duration::from_secs(29));
    run.background();
    assert_eq!(revision(&run), 2);
    run.clock.advance(Duration::from_secs(2));
    run.background();
    assert_eq!(revision(&run), 3);
    run.stop();
    run.disk.restart(Crash::PowerLossAll, 0);
    run.open().unwrap();
    assert_eq!(revision(&run), 3);
}

fn flush(run: &mut Run) {
    let core = run.core.as_mut().unwrap();
    if let Some(job) = core.start_flush(true) {
        let result = run.writer.as_mut().unwrap().flush(&job);
        core.finish_flush(result);
    }
}

fn write_some(run: &mut Run) {
    for _ in 0..12 {
        let batch = draw_batch(&mut run.random, &run.model);
        let answers = run.submit(&batch);
        run.check_answers(&batch, answers).unwrap();
    }
}

/// The pages that a failed sync should have written look clean to the kernel afterwards: a new
/// process reads them and they are never written.
#[test]
fn a_state_file_whose_sync_failed_is_not_built_upon() {
    for (seed, operation) in (0..3).flat_map(|seed| (1..40).map(move |one| (seed, one))) {
        let mut run =
            Run::start(Plan { seed, steps: 0, fault: Fault::None }, Planted::default()).unwrap();
        write_some(&mut run);
        flush(&mut run);
        write_some(&mut run);
        run.disk.fail_at(Some(run.disk.operations() + operation));
        flush(&mut run);
        run.disk.fail_at(None);
        let check = |result: Result<(), String>| {
            if let Err(violation) = result {
                panic!("seed {seed}, operation {operation}: {violation}");
            }
        };
        check(run.restart(Crash::Kill));
        write_some(&mut run);
        flush(&mut run);
        write_some(&mut run);
        flush(&mut run);
        check(run.restart(Crash::PowerLossAll));
        write_some(&mut run);
        check(run.check_state());
    }
}

/// Writes the state file anew, with writes and flushes in between; how often it was replaced.
fn rewrite(run: &mut Run) -> u64 {
    let before = run.report.rewritten;
    for round in 0..40 {
        if round == 0 {
            run.core.as_mut().unwrap().on_defragment(oneshot::channel().0);
        }
        let batch = draw_batch(&mut run.random, &run.model);
        let answers = run.submit(&batch);
        run.check_answers(&batch, answers).unwrap();
        let (core, writer) = (run.core.as_mut().unwrap(), run.writer.as_mut().unwrap());
        core.on_timer();
        if let Some(job) = core.start_flush(round % 3 == 0) {
            let result = writer.flush(&job);
            run.report.rewritten += u64::from(is_replaced(&result));
            core.finish_flush(result);
        }
        if let Some(copied) = writer.step() {
            core.on_copied(copied);
        }
        let core = run.core.as_ref().unwrap();
        if run.report.rewritten > before || core.shared.check().is_err() || run.disk.crashed() {
            break;
        }
    }
    run.report.rewritten - before
}

/// A store with something in it, and a folder in which the state file was flushed.
fn with_a_state() -> Run {
    let plan = Plan { seed: 11, steps: 0, fault: Fault::None };
    let mut run = Run::start(plan, Planted::default()).unwrap();
    for _ in 0..2 {
        write_some(&mut run);
        flush(&mut run);
    }
    run
}

#[test]
fn a_fault_at_every_operation_of_a_rewrite_loses_nothing() {
    let mut run = with_a_state();
    let from = run.disk.operations();
    assert_eq!(rewrite(&mut run), 1);
    let to = run.disk.operations();
    assert!(to - from > 60, "{from} to {to}");
    run.restart(Crash::PowerLossAll).unwrap();
    let mut rewritten = 0;
    for operation in from + 1..=to {
        // Each operation with two of the four, which takes long enough.
        let kinds = [None, Some(Crash::PowerLossAll), Some(Crash::PowerLoss), Some(Crash::Kill)];
        for crash in kinds.into_iter().skip(usize::from(operation % 2 == 0)).step_by(2) {
            let mut run = with_a_state();
            match crash {
                None => run.disk.fail_at(Some(operation)),
                Some(_) => run.disk.crash_at(Some(operation)),
            }
            rewritten += rewrite(&mut run);
            run.disk.fail_at(None);
            let check = |result: Result<(), String>| {
                if let Err(violation) = result {
                    panic!("operation {operation}, {crash:?}: {violation}");
                }
            };
            check(run.restart(crash.unwrap_or(Crash::Kill)));
            assert!(!run.disk.exists("rewrite.tmp").unwrap(), "{operation}, {crash:?}");
            write_some(&mut run);
            assert_eq!(rewrite(&mut run), 1, "operation {operation}, {crash:?}");
            write_some(&mut run);
            check(run.restart(Crash::PowerLossAll));
        }
    }
    assert!(rewritten > 0, "no fault came late enough, or was survived");
}

#[test]
fn a_full_disk_ends_a_rewrite_and_frees_what_it_took() {
    let mut given_up = 0;
    for spare_blocks in 0..60 {
        let mut run = with_a_state();
        run.disk.limit_space(Some(spare_blocks));
        *lock(&run.clock.freed_by_waiting) = Some(run.disk.clone());
        given_up += usize::from(rewrite(&mut run) == 0);
        assert!(run.core.as_ref().unwrap().shared.check().is_ok(), "{spare_blocks} blocks");
        run.disk.limit_space(None);
        run.restart(Crash::PowerLossAll).unwrap();
        assert_eq!(rewrite(&mut run), 1, "{spare_blocks} blocks");
    }
    assert!(given_up > 0, "there was always room");
}
