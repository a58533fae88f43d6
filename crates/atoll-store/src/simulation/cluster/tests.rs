//! The plans that run with every test, and planted bugs that must be noticed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

fn check(plan: ClusterPlan) -> ClusterReport {
    match run(plan) {
        Ok(report) => report,
        Err(violation) => panic!("{plan:?}: {violation}"),
    }
}

/// Some of the thousand seeds, so that the parts run beside each other.
fn part(number: u64) {
    const SEEDS: u64 = 125;
    let mut sum = ClusterReport::default();
    for seed in number * SEEDS..(number + 1) * SEEDS {
        let report = check(ClusterPlan::brief(seed));
        sum.snapshots += report.snapshots;
        sum.elections += report.elections;
        sum.changes += report.changes;
        sum.leases_ended += report.leases_ended;
        sum.unknown += report.unknown;
        sum.crashes += report.crashes;
        sum.jumps += report.jumps;
        sum.upgrades += report.upgrades;
    }
    // What never happens is not tested.
    let least = [sum.snapshots, sum.elections, sum.changes, sum.leases_ended, sum.unknown];
    assert!(least.iter().all(|count| *count > SEEDS / 2), "{sum:?}");
    assert!(sum.upgrades > SEEDS / 5 && sum.jumps > 0, "{sum:?}");
    assert!(sum.crashes > SEEDS, "{sum:?}");
}

#[test]
fn brief_runs_part_0() {
    part(0);
}

#[test]
fn brief_runs_part_1() {
    part(1);
}

#[test]
fn brief_runs_part_2() {
    part(2);
}

#[test]
fn brief_runs_part_3() {
    part(3);
}

#[test]
fn brief_runs_part_4() {
    part(4);
}

#[test]
fn brief_runs_part_5() {
    part(5);
}

#[test]
fn brief_runs_part_6() {
    part(6);
}

#[test]
fn brief_runs_part_7() {
    part(7);
}

#[test]
fn a_run_repeats_exactly() {
    let plan = ClusterPlan::of(6);
    assert_eq!(check(plan), check(plan));
}

#[test]
fn long_runs() {
    for seed in 0..8 {
        check(ClusterPlan::of(seed));
    }
}

/// A member whose state is another than that of the rest says so and stops; the rest goes on.
#[test]
fn the_odd_one_out_stops() {
    let mut world = World::start(ClusterPlan::brief(3)).unwrap();
    world.heal();
    world.until(Duration::from_secs(2)).unwrap();
    let ids: Vec<_> = world.nodes.keys().copied().collect();
    for id in ids {
        let Some(core) = world.nodes.get_mut(&id).and_then(|node| node.core.as_mut()) else {
            panic!("all are up");
        };
        if core.shared.is_leader.load(std::sync::atomic::Ordering::Relaxed) {
            continue;
        }
        core.damage_chain(1);
        lock(&world.ledger).members_find_out = true;
        let violation = world.until(Duration::from_secs(20)).unwrap_err();
        assert!(violation.contains(&format!("member {id:x}")), "{violation}");
        assert!(violation.contains("another than that of the majority"), "{violation}");
        return;
    }
    panic!("nobody follows");
}

/// A world in which nothing goes wrong, and clients go on.
fn healthy(seed: u64) -> World {
    let mut world = World::start(ClusterPlan::brief(seed)).unwrap();
    world.heal();
    world.until(Duration::from_secs(2)).unwrap();
    world
}

fn leader(world: &World) -> Option<u64> {
    let cores = world.nodes.iter().filter_map(|(id, node)| Some((*id, node.core.as_ref()?)));
    let leads = |core: &Core| core.shared.is_leader.load(std::sync::atomic::Ordering::Relaxed);
    cores.filter(|(_, core)| leads(core)).map(|(id, _)| id).next()
}

/// Where no majority has the same state, nobody knows which one is right: all refuse writes.
#[test]
fn without_a_majority_of_the_same_state_all_refuse() {
    let mut world = healthy(3);
    let leads = leader(&world).unwrap();
    lock(&world.ledger).members_find_out = true;
    for (number, (_, node)) in (1..).zip(world.nodes.iter_mut().filter(|(id, _)| **id != leads)) {
        node.core.as_mut().unwrap().damage_chain(number);
    }
    let found = world.until(Duration::from_secs(20)).unwrap_err();
    assert!(found.contains("none has a majority"), "{found}");
    let end = world.now + Duration::from_secs(2);
    while world.now < end {
        // Each that stops is a violation to the world.
        drop(world.step());
    }
    assert_eq!(world.nodes.len(), 3);
    for (id, node) in &mut world.nodes {
        let core = node.core.as_mut().unwrap();
        let failure = core.shared.failure().unwrap_or_default();
        assert!(failure.contains("none has a majority: all stop writing"), "{id:x}: {failure}");
        let (sender, mut answer) = tokio::sync::oneshot::channel();
        let reply = Some(crate::core::Reply { sender, permit: None });
        let command = crate::mvcc::Command::LeaseGrant { id: 1_000_000, ttl: 60 };
        let proposal = crate::core::Proposal { keyspace: 0, command, added_bytes: 0, reply };
        core.submit(vec![proposal]);
        let refused = answer.try_recv().unwrap().unwrap_err();
        assert!(matches!(refused, crate::kv::Error::Unavailable { .. }), "{refused}");
    }
}

/// Leases end through the log, so the ledger sees one that ends before its time.
#[test]
fn a_leader_whose_disk_is_slow_hands_over_and_no_lease_is_lost() {
    for seed in [3, 4, 6, 7, 8] {
        let mut world = healthy(seed);
        let slow = leader(&world).unwrap();
        world.nodes.get_mut(&slow).unwrap().slow = Duration::from_millis(300);
        let begun = world.now;
        while leader(&world).is_none_or(|leads| leads == slow) {
            world.until(Duration::from_millis(50)).unwrap();
            assert!(world.now < begun + Duration::from_secs(5), "seed {seed}: it still leads");
        }
        // Not back to it, as long as it is slow, and clients are served.
        let entries = lock(&world.ledger).last_index();
        world.until(Duration::from_secs(20)).unwrap();
        assert_ne!(leader(&world), Some(slow), "seed {seed}");
        assert!(lock(&world.ledger).last_index() > entries + 100, "seed {seed}");
        world.recover().unwrap();
        let report = world.finish().unwrap();
        assert!(report.leases_ended > 0, "seed {seed}: {report:?}");
    }
}

#[track_caller]
fn assert_noticed(bug: Bug, first: u64) {
    const RUNS: u64 = 300;
    let noticed = (first..first + RUNS).find_map(|seed| {
        let plan = ClusterPlan { bug: Some(bug), ..ClusterPlan::of(seed) };
        println!("seed {seed}");
        let outcome = catch_unwind(AssertUnwindSafe(|| run(plan).err()));
        outcome.unwrap_or_else(|_panic| Some("a panic".to_owned()))
    });
    assert!(noticed.is_some(), "nobody noticed");
    println!("{bug:?}: {}", noticed.unwrap_or_default());
}

// Each begins with a seed that is known to show the bug soon, and goes on should that have changed.

#[test]
fn a_skipped_sync_is_noticed() {
    assert_noticed(Bug::SkipsSync, 0);
}

#[test]
fn a_read_that_asks_nobody_is_noticed() {
    assert_noticed(Bug::ReadsAlone, 0);
}

#[test]
fn applying_before_the_commit_is_noticed() {
    assert_noticed(Bug::AppliesEarly, 0);
}

#[test]
fn an_id_that_is_used_again_is_noticed() {
    assert_noticed(Bug::ReusesId, 9);
}

#[test]
fn a_forgotten_vote_is_noticed() {
    assert_noticed(Bug::ForgetsVote, 151);
}
