//! Who is given up because its address refuses connections, and who is not.

use super::super::tests::{healthy, leader};
use super::*;

/// Each of the others dials in vain, again and again.
fn refuse_all(world: &mut World, peer: u64) {
    for observer in others(world, peer) {
        world.refuse(observer, peer);
    }
}

/// In both directions.
fn cut_off(world: &mut World, one: u64, other: u64) {
    world.network.cut.extend([(one, other), (other, one)]);
}

fn others(world: &World, id: u64) -> Vec<u64> {
    world.nodes.keys().copied().filter(|other| *other != id).collect()
}

fn elections(world: &World) -> u64 {
    lock(&world.ledger).elections()
}

/// Whom this member takes for the leader.
fn followed_by(world: &World, id: u64) -> Option<u64> {
    world.nodes[&id].core.as_ref().and_then(|core| core.shared.cluster.membership().leader)
}

fn until_another_leads(world: &mut World, before: u64) -> Duration {
    let begun = world.now;
    let leads = |world: &World, id: &u64| followed_by(world, *id) == Some(*id);
    while !others(world, before).iter().any(|id| leads(world, id)) {
        world.step().unwrap();
        assert!(world.now < begun + Duration::from_secs(20), "{}", world.describe());
    }
    world.now - begun
}

/// As long as it would take if it had only fallen silent, nobody waits for it.
#[test]
fn a_leader_that_has_ended_is_followed_within_half_a_second() {
    let mut times = Vec::new();
    for seed in [3, 4, 6, 7, 8, 9, 11, 12, 13] {
        let mut world = healthy(seed);
        let ended = leader(&world).unwrap();
        world.crash(ended, Crash::Kill).unwrap();
        times.push(until_another_leads(&mut world, ended));
        world.recover().unwrap();
    }
    // No two ask for the same vote at once: then it would take seconds.
    assert!(times.iter().all(|time| *time < Duration::from_millis(500)), "{times:?}");
}

#[test]
fn a_leader_that_is_heard_leads_on_whatever_its_address_answers() {
    for (seed, delay_ms) in [(3, 0), (4, 20), (10, 0), (10, 20)] {
        let mut world = healthy(seed);
        world.network.delay = Duration::from_millis(delay_ms);
        let (leads, before) = (leader(&world).unwrap(), elections(&world));
        let given_up = lock(&world.ledger).given_up;
        refuse_all(&mut world, leads);
        world.until(Duration::from_secs(20)).unwrap();
        // Nor does anybody but wait for it.
        assert!(delay_ms > 0 || lock(&world.ledger).given_up == given_up, "seed {seed}");
        assert_eq!((leader(&world), elections(&world)), (Some(leads), before), "seed {seed}");
    }
}

/// The others hear the leader, and do not vote for the one that does not.
#[test]
fn whoever_gives_up_a_leader_that_lives_disturbs_nobody_and_comes_back() {
    for seed in [3, 4, 10] {
        let mut world = healthy(seed);
        let (leads, before) = (leader(&world).unwrap(), elections(&world));
        let wrong = others(&world, leads)[0];
        cut_off(&mut world, wrong, leads);
        world.refuse(wrong, leads);
        world.until(Duration::from_millis(700)).unwrap();
        // It has not waited.
        assert_eq!(followed_by(&world, wrong), None, "seed {seed}: {}", world.describe());
        world.until(Duration::from_secs(10)).unwrap();
        assert_eq!((leader(&world), elections(&world)), (Some(leads), before), "seed {seed}");
        world.network.heal();
        world.until(Duration::from_secs(1)).unwrap();
        assert_eq!(followed_by(&world, wrong), Some(leads), "seed {seed}");
        assert_eq!(elections(&world), before, "seed {seed}");
        world.recover().unwrap();
    }
}

/// Two lead then for a while, the one of before longer than if the others had waited for it.
#[test]
fn a_leader_that_lives_and_is_followed_tells_nobody_what_is_past() {
    for seed in [3, 4, 6, 10] {
        followed_while_it_lives(seed);
    }
}

fn followed_while_it_lives(seed: u64) {
    let mut world = healthy(seed);
    let leads = leader(&world).unwrap();
    for other in others(&world, leads) {
        cut_off(&mut world, other, leads);
    }
    refuse_all(&mut world, leads);
    let time = until_another_leads(&mut world, leads);
    assert!(time < Duration::from_secs(1), "{time:?}");
    assert_eq!(followed_by(&world, leads), Some(leads), "it does not know yet");
    // Clients ask both.
    world.until(Duration::from_secs(5)).unwrap();
    assert_ne!(followed_by(&world, leads), Some(leads), "it has noticed");
    world.network.heal();
    world.recover().unwrap();
    world.finish().unwrap();
}
