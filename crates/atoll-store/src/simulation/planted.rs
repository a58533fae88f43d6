//! Bugs planted on purpose: a simulation that does not notice them proves nothing.

use std::collections::VecDeque;
use std::panic::catch_unwind;

use super::around::Around;
use super::*;
use crate::consensus::{Consensus, Work};

/// Runs until something is noticed; says what.
fn noticed(planted: Planted, faults: impl Fn(u64) -> Fault) -> Option<String> {
    const RUNS: u64 = 400;
    (0..RUNS).find_map(|seed| {
        let plan = Plan { seed, steps: 60, fault: faults(seed) };
        // A state file that holds nonsense makes redb panic, which is to notice too.
        let outcome = catch_unwind(|| run_planted(plan, planted).err());
        outcome.unwrap_or_else(|_panic| Some("a panic".to_owned()))
    })
}

fn lie(lie: Lie) -> Planted {
    Planted { lie: Some(lie), core: None }
}

/// Somewhere in the run, in another place for each seed.
fn power_loss(seed: u64) -> Fault {
    Fault::CrashAt(20 + seed * 7 % 300, Crash::PowerLoss)
}

#[track_caller]
fn assert_noticed(planted: Planted, faults: impl Fn(u64) -> Fault) {
    let noticed = noticed(planted, faults);
    assert!(noticed.is_some(), "nobody noticed");
}

#[test]
fn a_skipped_sync_of_the_log_is_noticed() {
    assert_noticed(lie(Lie::SkipsSync("wal/")), power_loss);
}

#[test]
fn an_acknowledgement_before_the_sync_is_noticed() {
    assert_noticed(lie(Lie::SyncsLate("wal/")), power_loss);
}

#[test]
fn a_skipped_sync_of_the_state_file_is_noticed() {
    assert_noticed(lie(Lie::SkipsSync("state")), power_loss);
}

#[test]
fn a_skipped_sync_of_the_member_file_is_noticed() {
    assert_noticed(lie(Lie::SkipsSync("member")), power_loss);
}

#[test]
fn a_skipped_sync_of_a_folder_is_noticed() {
    assert_noticed(lie(Lie::SkipsFolderSync("wal")), power_loss);
    assert_noticed(lie(Lie::SkipsFolderSync("")), power_loss);
}

#[test]
fn a_torn_tail_that_stays_is_noticed() {
    assert_noticed(lie(Lie::KeepsTornTail), power_loss);
}

#[test]
fn a_lost_seal_is_noticed() {
    assert_noticed(lie(Lie::LosesSeals), |seed| Fault::DamageAt(5 + to_step(seed)));
}

#[test]
fn damage_taken_for_a_torn_tail_is_noticed() {
    assert_noticed(lie(Lie::CutsDamage), |seed| Fault::DamageAt(5 + to_step(seed)));
}

#[test]
fn applying_before_the_log_is_durable_is_noticed() {
    let planted = Planted {
        lie: None,
        core: Some(|core| {
            core.with_consensus(|inner| Box::new(Hasty { inner, held: VecDeque::new() }))
        }),
    };
    assert_noticed(planted, power_loss);
}

fn to_step(seed: u64) -> usize {
    usize::try_from(seed % 40).unwrap_or(0)
}

/// Says that entries are durable before they are written, and has them applied first.
struct Hasty {
    inner: Box<dyn Consensus>,
    held: VecDeque<Work>,
}

impl Around for Hasty {
    fn inner(&self) -> &dyn Consensus {
        &*self.inner
    }

    fn inner_mut(&mut self) -> &mut dyn Consensus {
        &mut *self.inner
    }

    fn poll_around(&mut self) -> Option<Work> {
        let Some(work) = self.inner.poll() else { return self.held.pop_front() };
        if work.entries.is_empty() {
            return Some(work);
        }
        self.inner.persisted(work.number);
        self.held.push_back(work);
        self.inner.poll().or_else(|| self.held.pop_front())
    }
}
