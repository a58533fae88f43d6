//! Compaction: what is forgotten, and what is not.

use atoll_store::kv::{Error, RangeRequest};
use futures::StreamExt as _;

use crate::world::{World, events, everything, next, prefix, single, told};

super::checks!(
    the_newest_of_each_key_stays_and_older_ones_cannot_be_read,
    compaction_goes_forward_only_and_not_beyond_the_present,
    a_watch_from_before_is_ended_with_the_oldest_revision,
    a_watch_from_right_after_sees_everything,
    a_watch_at_the_compacted_revision_sees_the_deletion_there,
    an_open_watch_goes_on_over_a_compaction,
    compacting_changes_no_revision,
    what_was_deleted_before_is_gone_for_good,
);

async fn the_newest_of_each_key_stays_and_older_ones_cannot_be_read(world: World) {
    let first = world.put("a", "1").await;
    world.put("b", "1").await;
    let compacted = world.put("a", "2").await;
    let last = world.put("a", "3").await;
    world.kv.compact(compacted).await.unwrap();
    let requested = first;
    let past = RangeRequest { revision: Some(requested), ..RangeRequest::new(single("a")) };
    assert_eq!(world.kv.range(past).await, Err(Error::Compacted { requested, compacted }));
    assert_eq!(world.values(everything(), Some(compacted)).await, ["a=2", "b=1"]);
    assert_eq!(world.values(everything(), Some(last)).await, ["a=3", "b=1"]);
    assert_eq!(world.kv.status().await.unwrap().compacted_revision, compacted);
}

async fn compaction_goes_forward_only_and_not_beyond_the_present(world: World) {
    world.put("a", "1").await;
    let compacted = world.put("a", "2").await;
    let current = world.put("a", "3").await;
    let requested = current + 5;
    let refused = world.kv.compact(requested).await;
    assert_eq!(refused, Err(Error::Future { requested, current }));
    world.kv.compact(compacted).await.unwrap();
    for requested in [compacted, compacted - 1] {
        let refused = world.kv.compact(requested).await;
        assert_eq!(refused, Err(Error::Compacted { requested, compacted }));
    }
    world.kv.compact(current).await.unwrap();
    assert_eq!(world.values(everything(), None).await, ["a=3"]);
}

async fn a_watch_from_before_is_ended_with_the_oldest_revision(world: World) {
    let requested = world.put("a", "1").await;
    let compacted = world.put("a", "2").await;
    world.kv.compact(compacted).await.unwrap();
    let mut watch = world.watch(single("a"), Some(requested));
    assert_eq!(next(&mut watch).await, Err(Error::Compacted { requested, compacted }));
    assert!(watch.next().await.is_none());
}

async fn a_watch_from_right_after_sees_everything(world: World) {
    let base = world.revision().await;
    world.put("a", "1").await;
    world.put("a", "2").await;
    world.put("b", "1").await;
    world.delete("a").await;
    world.kv.compact(base + 2).await.unwrap();
    let mut watch = world.watch_prev(everything(), Some(base + 3));
    let seen = events(&mut watch, 2).await;
    assert_eq!(told(&seen, base), ["+b=1@3", "-a@4"]);
    assert_eq!(seen[1].prev_kv.as_ref().unwrap().value, "2");
}

async fn a_watch_at_the_compacted_revision_sees_the_deletion_there(world: World) {
    let base = world.revision().await;
    world.put("a", "1").await;
    world.delete("a").await;
    world.put("b", "1").await;
    world.kv.compact(base + 2).await.unwrap();
    let mut watch = world.watch(everything(), Some(base + 2));
    assert_eq!(told(&events(&mut watch, 2).await, base), ["-a@2", "+b=1@3"]);
}

async fn an_open_watch_goes_on_over_a_compaction(world: World) {
    let base = world.revision().await;
    let mut watch = world.watch(prefix("a"), None);
    world.put("a", "1").await;
    assert_eq!(told(&events(&mut watch, 1).await, base), ["+a=1@1"]);
    for number in 0..10 {
        world.put("elsewhere", &number.to_string()).await;
    }
    world.kv.compact(base + 9).await.unwrap();
    world.put("a", "2").await;
    assert_eq!(told(&events(&mut watch, 1).await, base), ["+a=2@12"]);
}

async fn compacting_changes_no_revision(world: World) {
    world.put("a", "1").await;
    let base = world.put("a", "2").await;
    let mut watch = world.watch(everything(), Some(base));
    world.kv.compact(base).await.unwrap();
    assert_eq!(world.revision().await, base);
    let kept = world.range(RangeRequest::new(single("a"))).await.kvs.remove(0);
    assert_eq!((kept.create_revision, kept.mod_revision, kept.version), (base - 1, base, 2));
    assert_eq!(told(&events(&mut watch, 1).await, base), ["+a=2@0"]);
    assert_eq!(world.put("a", "3").await, base + 1);
    let kept = world.range(RangeRequest::new(single("a"))).await.kvs.remove(0);
    assert_eq!((kept.create_revision, kept.version), (base - 1, 3));
}

async fn what_was_deleted_before_is_gone_for_good(world: World) {
    world.put("a", "1").await;
    world.delete("a").await;
    let compacted = world.put("b", "1").await;
    world.kv.compact(compacted).await.unwrap();
    assert_eq!(world.values(everything(), Some(compacted)).await, ["b=1"]);
    let again = world.put("a", "2").await;
    let made = world.range(RangeRequest::new(single("a"))).await.kvs.remove(0);
    assert_eq!((made.create_revision, made.version), (again, 1));
}
