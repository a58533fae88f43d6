//! Revisions, versions and ranges.

use atoll_store::kv::{Consistency, Error, KeyRange, RangeRequest};
use bytes::Bytes;

use crate::world::{World, delete, everything, get, ops, prefix, put, shown, single};

super::checks!(
    an_empty_keyspace_is_at_revision_one_if_it_is_alone,
    every_write_raises_the_revision_by_one,
    what_writes_nothing_raises_nothing,
    a_key_knows_when_it_was_made_and_how_often_written,
    ranges_are_in_order_whatever_their_form,
    a_limit_counts_all_and_says_that_there_is_more,
    keys_only_and_count_only_leave_out_what_they_say,
    the_past_can_be_read_and_says_the_present_revision,
    a_future_revision_is_refused_with_the_present_one,
    an_empty_key_is_refused,
    keys_may_hold_any_bytes,
    keyspaces_do_not_see_each_other,
    a_read_sees_every_acknowledged_write,
);

async fn an_empty_keyspace_is_at_revision_one_if_it_is_alone(world: World) {
    let found = world.range(RangeRequest::new(everything())).await;
    assert_eq!((found.kvs.len(), found.count, found.more), (0, 0, false));
    if world.owns_revisions {
        assert_eq!(found.revision, 1);
        assert_eq!(world.put("a", "1").await, 2);
    }
    assert_eq!(world.kv.status().await.unwrap().revision, world.revision().await);
}

async fn every_write_raises_the_revision_by_one(world: World) {
    let base = world.revision().await;
    assert_eq!(world.put("a", "1").await, base + 1);
    assert_eq!(world.put("a", "1").await, base + 2);
    let many = world.txn(ops([put("b", "1"), put("c", "1"), delete(single("a"))])).await.unwrap();
    assert_eq!(many.revision, base + 3);
    let found = world.range(RangeRequest::new(everything())).await;
    assert_eq!(found.revision, base + 3);
    assert!(found.kvs.iter().all(|kv| kv.mod_revision == base + 3));
}

async fn what_writes_nothing_raises_nothing(world: World) {
    world.put("a", "1").await;
    let base = world.revision().await;
    assert_eq!(world.delete("b").await, base);
    assert_eq!(world.txn(ops([get(single("a"))])).await.unwrap().revision, base);
    assert_eq!(world.txn(ops([])).await.unwrap().revision, base);
    let (lease, _) = world.kv.lease_grant(0, 60).await.unwrap();
    world.kv.lease_keep_alive(lease).await.unwrap();
    world.kv.lease_revoke(lease).await.unwrap();
    assert_eq!(world.revision().await, base);
}

async fn a_key_knows_when_it_was_made_and_how_often_written(world: World) {
    let base = world.revision().await;
    let history = |found: &atoll_store::kv::RangeResult| {
        let kv = found.kvs[0].clone();
        (kv.create_revision - base, kv.mod_revision - base, kv.version)
    };
    world.put("a", "1").await;
    world.put("b", "1").await;
    world.put("a", "2").await;
    assert_eq!(history(&world.range(RangeRequest::new(single("a"))).await), (1, 3, 2));
    world.delete("a").await;
    assert_eq!(world.values(single("a"), None).await, [""; 0]);
    world.put("a", "3").await;
    assert_eq!(history(&world.range(RangeRequest::new(single("a"))).await), (5, 5, 1));
}

async fn ranges_are_in_order_whatever_their_form(world: World) {
    for name in ["p/c", "q", "p/a", "o", "p/b", "p"] {
        world.put(name, "v").await;
    }
    let names = |range: KeyRange| {
        let world = &world;
        async move { world.values(range, None).await.join(" ").replace("=v", "") }
    };
    assert_eq!(names(single("p")).await, "p");
    assert_eq!(names(prefix("p/")).await, "p/a p/b p/c");
    assert_eq!(names(everything()).await, "o p p/a p/b p/c q");
    let from = KeyRange { key: "p/b".into(), end: Some(Bytes::from_static(b"\0")) };
    assert_eq!(names(from).await, "p/b p/c q");
    let between = KeyRange { key: "p".into(), end: Some("p/b".into()) };
    assert_eq!(names(between).await, "p p/a");
    let backwards = KeyRange { key: "q".into(), end: Some("o".into()) };
    assert_eq!(names(backwards).await, "");
    let nothing = KeyRange { key: "p".into(), end: Some("p".into()) };
    assert_eq!(names(nothing).await, "");
}

async fn a_limit_counts_all_and_says_that_there_is_more(world: World) {
    for name in ["p/a", "p/b", "p/c"] {
        world.put(name, "v").await;
    }
    let limited = |limit| RangeRequest { limit, ..RangeRequest::new(prefix("p/")) };
    for (limit, length, more) in [(0, 3, false), (1, 1, true), (3, 3, false), (9, 3, false)] {
        let found = world.range(limited(limit)).await;
        assert_eq!((found.kvs.len(), found.count, found.more), (length, 3, more), "{limit}");
    }
}

async fn keys_only_and_count_only_leave_out_what_they_say(world: World) {
    world.put("a", "value").await;
    let base = world.put("b", "value").await;
    let keys = RangeRequest { keys_only: true, ..RangeRequest::new(everything()) };
    let found = world.range(keys).await;
    assert_eq!(shown(&found), ["a=", "b="]);
    assert_eq!((found.kvs[1].mod_revision, found.kvs[1].version), (base, 1));
    let counted = RangeRequest { count_only: true, limit: 1, ..RangeRequest::new(everything()) };
    let found = world.range(counted).await;
    assert_eq!((found.kvs.len(), found.count, found.more), (0, 2, false));
}

async fn the_past_can_be_read_and_says_the_present_revision(world: World) {
    let first = world.put("a", "1").await;
    let second = world.put("a", "2").await;
    let third = world.delete("a").await;
    assert_eq!(world.values(single("a"), Some(first)).await, ["a=1"]);
    assert_eq!(world.values(single("a"), Some(second)).await, ["a=2"]);
    assert_eq!(world.values(single("a"), Some(third)).await, [""; 0]);
    let request = RangeRequest { revision: Some(first), ..RangeRequest::new(single("a")) };
    assert_eq!(world.range(request).await.revision, third);
}

async fn a_future_revision_is_refused_with_the_present_one(world: World) {
    let current = world.put("a", "1").await;
    let requested = current + 7;
    let request = RangeRequest { revision: Some(requested), ..RangeRequest::new(single("a")) };
    assert_eq!(world.kv.range(request).await, Err(Error::Future { requested, current }));
}

async fn an_empty_key_is_refused(world: World) {
    let base = world.revision().await;
    let asked = world.kv.range(RangeRequest::new(prefix(""))).await;
    assert_eq!(asked, Err(Error::EmptyKey));
    for op in [put("", "1"), delete(prefix("")), get(single(""))] {
        assert_eq!(world.txn(ops([put("a", "1"), op])).await, Err(Error::EmptyKey));
    }
    assert_eq!(world.revision().await, base);
}

async fn keys_may_hold_any_bytes(world: World) {
    let keys: [&[u8]; 5] = [b"\0", b"\0\0", b"a\0", b"\xfe\xff", b"\xff\xff"];
    for key in keys {
        let put = atoll_store::kv::PutRequest {
            key: Bytes::from_static(key),
            value: Bytes::from_static(b"\0\xff"),
            lease: 0,
            prev_kv: false,
        };
        world.write(atoll_store::kv::Op::Put(put)).await;
    }
    let found = world.range(RangeRequest::new(everything())).await;
    let seen: Vec<&[u8]> = found.kvs.iter().map(|kv| kv.key.as_ref()).collect();
    assert_eq!(seen, keys);
    assert_eq!(found.kvs[0].value.as_ref(), b"\0\xff");
    let last = KeyRange::prefix(Bytes::from_static(b"\xff"));
    assert_eq!(world.range(RangeRequest::new(last)).await.count, 1);
}

async fn keyspaces_do_not_see_each_other(world: World) {
    world.put("a", "one").await;
    let before = crate::world::revision(&world.other).await;
    let written = world.other.txn(ops([put("b", "other")])).await.unwrap();
    assert_eq!(written.revision, before + 1);
    assert_eq!(world.values(everything(), None).await, ["a=one"]);
    let found = world.other.range(RangeRequest::new(everything())).await.unwrap();
    assert_eq!(shown(&found), ["b=other"]);
    world.other.txn(ops([delete(everything())])).await.unwrap();
    assert_eq!(world.values(everything(), None).await, ["a=one"]);
}

async fn a_read_sees_every_acknowledged_write(world: World) {
    for number in 0..50 {
        let value = number.to_string();
        let revision = world.put("a", &value).await;
        let found = world.range(RangeRequest::new(single("a"))).await;
        assert_eq!(shown(&found), [format!("a={value}")]);
        assert!(found.revision >= revision);
    }
    // A stale read may be behind, but not beyond.
    let mut stale = RangeRequest::new(single("a"));
    stale.consistency = Consistency::Serializable;
    assert!(world.range(stale).await.revision <= world.revision().await);
}
