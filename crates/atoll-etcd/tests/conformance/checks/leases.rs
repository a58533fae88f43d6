//! Leases: what hangs on them goes with them.

use atoll_store::kv::{Error, EventKind, Op, RangeRequest, Txn};
use tokio::time::Instant;

use crate::world::{
    PATIENCE, World, bytes, delete, everything, next, ops, put, put_leased, single,
};

super::checks!(
    a_revoked_lease_takes_its_keys_at_one_revision,
    a_lease_that_is_not_kept_alive_ends_and_its_keys_with_it,
    a_lease_that_is_kept_alive_stays,
    a_key_belongs_to_the_lease_of_its_last_write,
    a_lease_has_at_least_two_seconds_and_an_end_to_its_length,
    ids_are_given_or_chosen_and_never_twice,
    a_lease_that_is_not_there_is_not_found,
    leases_of_another_keyspace_are_not_ours,
);

async fn a_revoked_lease_takes_its_keys_at_one_revision(world: World) {
    let (lease, _) = world.kv.lease_grant(0, 60).await.unwrap();
    world.txn(ops([put_leased("a", "1", lease), put_leased("b", "1", lease)])).await.unwrap();
    let base = world.put("c", "stays").await;
    let mut watch = world.watch_prev(everything(), Some(base + 1));
    let shown = world.kv.lease_info(lease).await.unwrap();
    assert_eq!((shown.ttl, shown.keys), (60, vec![bytes("a"), bytes("b")]));
    assert!((1..=60).contains(&shown.remaining), "{} s left", shown.remaining);
    world.kv.lease_revoke(lease).await.unwrap();
    assert_eq!(world.revision().await, base + 1);
    let batch = next(&mut watch).await.unwrap();
    let mut gone: Vec<_> = batch
        .events
        .iter()
        .map(|event| {
            assert_eq!((event.kind, event.kv.mod_revision), (EventKind::Delete, base + 1));
            assert_eq!(event.prev_kv.as_ref().unwrap().lease, lease);
            event.kv.key.clone()
        })
        .collect();
    gone.sort_unstable();
    assert_eq!(gone, ["a", "b"]);
    assert_eq!(world.values(everything(), None).await, ["c=stays"]);
}

async fn a_lease_that_is_not_kept_alive_ends_and_its_keys_with_it(world: World) {
    let (lease, ttl) = world.kv.lease_grant(0, 2).await.unwrap();
    assert_eq!(ttl, 2);
    let granted = Instant::now();
    let base = world.write(put_leased("a", "1", lease)).await.revision;
    let mut watch = world.watch(single("a"), Some(base + 1));
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(batch.events[0].kind, EventKind::Delete);
    let lived = granted.elapsed();
    assert!(lived.as_millis() >= 1900, "it ended after {lived:?}");
    let deadline = Instant::now() + PATIENCE;
    while world.kv.leases().await.unwrap().contains(&lease) {
        assert!(Instant::now() < deadline, "the lease is still shown");
        tokio::task::yield_now().await;
    }
    assert_eq!(world.kv.lease_keep_alive(lease).await, Err(Error::LeaseNotFound { id: lease }));
}

async fn a_lease_that_is_kept_alive_stays(world: World) {
    let (lease, ttl) = world.kv.lease_grant(0, 2).await.unwrap();
    world.write(put_leased("a", "1", lease)).await;
    for _ in 0..7 {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!(world.kv.lease_keep_alive(lease).await, Ok(ttl));
    }
    assert_eq!(world.values(single("a"), None).await, ["a=1"]);
    world.kv.lease_revoke(lease).await.unwrap();
}

async fn a_key_belongs_to_the_lease_of_its_last_write(world: World) {
    let (one, _) = world.kv.lease_grant(0, 60).await.unwrap();
    let (other, _) = world.kv.lease_grant(0, 60).await.unwrap();
    for name in ["a", "b", "c"] {
        world.write(put_leased(name, "1", one)).await;
    }
    world.put("a", "free").await;
    world.write(put_leased("b", "moved", other)).await;
    world.write(delete(single("c"))).await;
    assert_eq!(world.kv.lease_info(one).await.unwrap().keys, [""; 0]);
    assert_eq!(world.kv.lease_info(other).await.unwrap().keys, ["b"]);
    let kept = world.range(RangeRequest::new(single("b"))).await;
    assert_eq!(kept.kvs[0].lease, other);
    world.kv.lease_revoke(one).await.unwrap();
    assert_eq!(world.values(everything(), None).await, ["a=free", "b=moved"]);
    world.kv.lease_revoke(other).await.unwrap();
    assert_eq!(world.values(everything(), None).await, ["a=free"]);
}

async fn a_lease_has_at_least_two_seconds_and_an_end_to_its_length(world: World) {
    for ttl in [-1, 0, 1] {
        let (lease, granted) = world.kv.lease_grant(0, ttl).await.unwrap();
        assert_eq!(granted, 2, "asked for {ttl}");
        world.kv.lease_revoke(lease).await.unwrap();
    }
    let longest = 9_000_000_000;
    let (lease, granted) = world.kv.lease_grant(0, longest).await.unwrap();
    assert_eq!(granted, longest);
    world.kv.lease_revoke(lease).await.unwrap();
    let refused = world.kv.lease_grant(0, longest + 1).await;
    assert_eq!(refused, Err(Error::LeaseTtlTooLarge { ttl: longest + 1 }));
}

async fn ids_are_given_or_chosen_and_never_twice(world: World) {
    let (one, _) = world.kv.lease_grant(0, 60).await.unwrap();
    let (other, _) = world.kv.lease_grant(0, 60).await.unwrap();
    assert!(one > 0 && other > 0 && one != other);
    let chosen = i64::from(rand::random::<u32>()) + 1;
    assert_eq!(world.kv.lease_grant(chosen, 60).await, Ok((chosen, 60)));
    assert_eq!(world.kv.lease_grant(chosen, 60).await, Err(Error::LeaseExists { id: chosen }));
    // Those that end first come first.
    let all = [one, other, chosen];
    assert_eq!(world.kv.leases().await.unwrap(), all);
    assert_eq!(world.kv.lease_info(chosen).await.unwrap().keys, [""; 0]);
    assert_eq!(world.kv.lease_keep_alive(chosen).await, Ok(60));
    for lease in all {
        world.kv.lease_revoke(lease).await.unwrap();
    }
    assert_eq!(world.kv.leases().await.unwrap(), [0_i64; 0]);
    assert_eq!(world.values(everything(), None).await, [""; 0]);
}

async fn a_lease_that_is_not_there_is_not_found(world: World) {
    let (id, _) = world.kv.lease_grant(0, 60).await.unwrap();
    world.kv.lease_revoke(id).await.unwrap();
    for id in [id, 0x1234] {
        let missing = Error::LeaseNotFound { id };
        assert_eq!(world.kv.lease_revoke(id).await, Err(missing.clone()));
        assert_eq!(world.kv.lease_keep_alive(id).await, Err(missing.clone()));
        assert_eq!(world.kv.lease_info(id).await, Err(missing));
        let refused = world.txn(ops([put_leased("a", "1", id)])).await;
        assert!(matches!(refused, Err(Error::LeaseNotFound { .. })), "{refused:?}");
    }
    // The branch that is not taken needs no lease.
    let txn =
        Txn { success: vec![put("a", "1")], failure: vec![put_leased("a", "1", id)], ..ops([]) };
    assert!(world.txn(txn).await.unwrap().succeeded);
    let removed: Op = delete(single("a"));
    world.write(removed).await;
}

async fn leases_of_another_keyspace_are_not_ours(world: World) {
    let (theirs, _) = world.other.lease_grant(0, 60).await.unwrap();
    assert_eq!(world.kv.leases().await.unwrap(), [0_i64; 0]);
    let missing = Error::LeaseNotFound { id: theirs };
    assert_eq!(world.kv.lease_revoke(theirs).await, Err(missing.clone()));
    assert_eq!(world.kv.lease_keep_alive(theirs).await, Err(missing.clone()));
    assert_eq!(world.kv.lease_info(theirs).await, Err(missing));
    assert_eq!(world.other.leases().await.unwrap(), [theirs]);
    world.other.lease_revoke(theirs).await.unwrap();
}
