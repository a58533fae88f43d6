//! A majority is lost for good at any moment: what the best of those that are left holds.

use rand::seq::SliceRandom;

use super::super::everything;
use super::*;
use crate::kv::{KeyValue, RangeRequest, Revision};
use crate::mvcc::State;
use crate::restore::{REVISIONS_SKIPPED, Restore, Survivor};
use crate::sync::read;

fn live(state: &State, revision: Revision) -> Vec<KeyValue> {
    let request = RangeRequest { revision: Some(revision), ..RangeRequest::new(everything()) };
    state.plan(&request, state.revision).finish().unwrap().kvs
}

/// Of a run that ends in the middle, everywhere at once, the folders of any majority. One of
/// three is the same with less luck.
fn survivors(world: &mut World) -> Vec<Survivor> {
    let members = world.nodes.values().filter_map(|node| {
        let core = node.core.as_ref()?;
        Some((node.applied(), core.shared.cluster.membership()))
    });
    let known = members.max_by_key(|(applied, _)| *applied).map(|(_, known)| known);
    let mut voters: Vec<u64> =
        known.iter().flat_map(|known| known.voters().map(|v| v.id)).collect();
    for (id, node) in &mut world.nodes {
        node.stop(node_crash(&mut world.random), world.plan.seed ^ id);
    }
    voters.shuffle(&mut world.random);
    voters.truncate(voters.len() / 2 + 1);
    let read = |id: &u64| {
        let disk = Arc::new(world.nodes[id].disk.clone());
        Survivor::of_disk(disk, format!("{id:x}")).unwrap()
    };
    voters.iter().map(read).collect()
}

/// How many entries its best survivor has that it never heard to be committed.
fn lose_a_majority(seed: u64) -> u64 {
    let mut world = World::start(ClusterPlan::brief(seed)).unwrap();
    world.until(Duration::from_millis(700 + seed * 997 % 6000)).unwrap();
    let mut survivors = survivors(&mut world);
    survivors.sort_by_key(|one| (one.found().last.term, one.found().last.index));
    let Some(best) = survivors.pop() else { return 0 };
    let ledger = lock(&world.ledger);
    assert!(best.found().last.index >= ledger.last_index(), "{:?}", best.found());
    for (code, expected) in ledger.model.keyspaces.iter().enumerate() {
        let found = live(best.state(code), expected.revision);
        let expected: Vec<_> = expected.live.values().cloned().collect();
        assert_eq!(found, expected, "keyspace {code}");
    }
    comes_back(&best);
    best.found().last.index - best.found().committed
}

/// As the only member of another cluster, which holds the same at later revisions.
fn comes_back(survivor: &Survivor) {
    let disk = Arc::new(SimulatedDisk::new());
    let mut restore = Restore::onto(disk.clone(), "new".to_owned()).unwrap();
    survivor.chunks().for_each(|chunk| restore.push(&chunk.unwrap()).unwrap());
    restore.finish().unwrap();
    let mut random = StdRng::seed_from_u64(1);
    let clock = Arc::<SimulatedClock>::default();
    let opened = Core::open(disk, clock, config(1), &mut random, None).unwrap();
    assert_ne!(opened.cluster_id, survivor.found().cluster_id);
    for (code, keyspace) in opened.core.shared.keyspaces.iter().enumerate() {
        let (old, new) = (survivor.state(code), read(&keyspace.state));
        assert_eq!(live(&new, new.revision), live(old, old.revision));
        assert_eq!(new.revision, old.revision + REVISIONS_SKIPPED);
        assert_eq!(new.compacted, new.revision);
        assert!(new.leases.keys().eq(old.leases.keys()));
    }
}

#[test]
fn the_best_of_a_majority_holds_all_that_was_acknowledged() {
    let mut unheard = 0;
    for seed in 0..40 {
        println!("seed {seed}");
        unheard += u64::from(lose_a_majority(seed) > 0);
    }
    // What nobody told it to be committed was in some of them, and counted.
    assert!(unheard > 5, "{unheard}");
}
