//! Watches: ordered, unique, reliable, atomic, resumable.

use atoll_store::kv::{Error, KeyRange, Revision};
use futures::StreamExt as _;

use crate::world::{
    Watch, World, delete, events, everything, next, ops, prefix, put, single, told,
};

super::checks!(
    every_change_is_seen_in_order_from_any_revision,
    a_watch_of_the_present_sees_what_comes_next_and_nothing_older,
    a_transaction_is_seen_whole_and_at_once,
    only_the_range_is_seen,
    what_was_replaced_is_told_if_asked,
    a_watch_on_a_future_revision_waits_for_it,
    a_watch_resumes_where_another_ended,
    many_watches_see_the_same,
    much_history_comes_whole_and_in_order,
    watches_follow_concurrent_writers_without_a_gap,
    a_watch_that_is_not_read_is_ended,
    a_range_that_holds_nothing_sees_nothing,
);

async fn every_change_is_seen_in_order_from_any_revision(world: World) {
    let base = world.revision().await;
    world.put("a", "1").await;
    world.put("b", "1").await;
    world.put("a", "2").await;
    world.delete("a").await;
    world.put("a", "3").await;
    let all = ["+a=1@1", "+b=1@2", "+a=2@3", "-a@4", "+a=3@5"];
    for from in 1..=5_usize {
        let start = base + Revision::try_from(from).unwrap();
        let mut watch = world.watch(everything(), Some(start));
        let wanted = &all[from - 1..];
        assert_eq!(told(&events(&mut watch, wanted.len()).await, base), wanted);
    }
}

async fn a_watch_of_the_present_sees_what_comes_next_and_nothing_older(world: World) {
    let base = world.put("a", "old").await;
    let mut now = world.watch(everything(), None);
    let mut zero = world.watch(everything(), Some(0));
    world.put("a", "new").await;
    for watch in [&mut now, &mut zero] {
        assert_eq!(told(&events(watch, 1).await, base), ["+a=new@1"]);
    }
}

async fn a_transaction_is_seen_whole_and_at_once(world: World) {
    world.put("a", "1").await;
    let base = world.revision().await;
    let mut live = world.watch(everything(), None);
    let txn = ops([put("z", "1"), delete(single("a")), put("b", "1")]);
    world.txn(txn).await.unwrap();
    let mut past = world.watch(everything(), Some(base + 1));
    for watch in [&mut live, &mut past] {
        let batch = next(watch).await.unwrap();
        // In the order of the operations, not of the keys.
        assert_eq!(told(&batch.events, base), ["+z=1@1", "-a@1", "+b=1@1"]);
        assert_eq!(batch.revision, base + 1);
    }
}

async fn only_the_range_is_seen(world: World) {
    let base = world.revision().await;
    let mut one = world.watch(single("p"), Some(base + 1));
    let mut many = world.watch(prefix("p/"), Some(base + 1));
    let end = KeyRange { key: "p/b".into(), end: Some("q".into()) };
    let mut some = world.watch(end, Some(base + 1));
    for name in ["p", "o", "p/a", "p/b", "q"] {
        world.put(name, "v").await;
    }
    assert_eq!(told(&events(&mut one, 1).await, base), ["+p=v@1"]);
    assert_eq!(told(&events(&mut many, 2).await, base), ["+p/a=v@3", "+p/b=v@4"]);
    assert_eq!(told(&events(&mut some, 1).await, base), ["+p/b=v@4"]);
    world.put("p", "last").await;
    assert_eq!(told(&events(&mut one, 1).await, base), ["+p=last@6"]);
}

async fn what_was_replaced_is_told_if_asked(world: World) {
    let base = world.revision().await;
    world.put("a", "1").await;
    world.put("a", "2").await;
    world.delete("a").await;
    let mut asked = world.watch_prev(single("a"), Some(base + 1));
    let replaced: Vec<_> = events(&mut asked, 3)
        .await
        .into_iter()
        .map(|event| event.prev_kv.map(|kv| (kv.mod_revision - base, kv.value)))
        .collect();
    assert_eq!(replaced, [None, Some((1, "1".into())), Some((2, "2".into()))]);
    let mut quiet = world.watch(single("a"), Some(base + 1));
    assert!(events(&mut quiet, 3).await.iter().all(|event| event.prev_kv.is_none()));
    let mut live = world.watch_prev(single("a"), None);
    world.put("a", "3").await;
    world.put("a", "4").await;
    let seen = events(&mut live, 2).await;
    assert_eq!(seen[0].prev_kv, None);
    assert_eq!(seen[1].prev_kv.as_ref().unwrap().value, "3");
}

async fn a_watch_on_a_future_revision_waits_for_it(world: World) {
    let base = world.revision().await;
    let mut watch = world.watch(single("a"), Some(base + 3));
    for value in ["1", "2", "3", "4"] {
        world.put("a", value).await;
    }
    assert_eq!(told(&events(&mut watch, 2).await, base), ["+a=3@3", "+a=4@4"]);
}

async fn a_watch_resumes_where_another_ended(world: World) {
    let base = world.revision().await;
    let mut next_revision = base + 1;
    let mut seen = Vec::new();
    for number in 0..30 {
        world.put("a", &number.to_string()).await;
        if number % 3 == 2 {
            let mut watch = world.watch(single("a"), Some(next_revision));
            let batch = next(&mut watch).await.unwrap();
            next_revision = batch.revision + 1;
            seen.extend(batch.events.iter().map(|event| event.kv.mod_revision - base));
        }
    }
    let mut rest = world.watch(single("a"), Some(next_revision));
    let missing = 30 - seen.len();
    let rest = if missing > 0 { events(&mut rest, missing).await } else { Vec::new() };
    seen.extend(rest.iter().map(|event| event.kv.mod_revision - base));
    assert_eq!(seen, (1..=30).collect::<Vec<_>>());
}

async fn many_watches_see_the_same(world: World) {
    let base = world.revision().await;
    let mut watches: Vec<Watch> =
        (0..40).map(|_| world.watch(everything(), Some(base + 1))).collect();
    for number in 0..20 {
        world.put("a", &number.to_string()).await;
    }
    let wanted: Vec<_> = (0..20).map(|number| format!("+a={number}@{}", number + 1)).collect();
    for watch in &mut watches {
        assert_eq!(told(&events(watch, 20).await, base), wanted);
    }
}

/// More than one message of etcd holds: revisions must not be torn where it is cut.
async fn much_history_comes_whole_and_in_order(world: World) {
    let base = world.revision().await;
    let value = "x".repeat(100_000);
    for number in 0..30 {
        let name = |part| format!("k{number:02}/{part}");
        let txn = ops([put(&name("a"), &value), put(&name("b"), &value), put(&name("c"), "end")]);
        world.txn(txn).await.unwrap();
    }
    let mut watch = world.watch(everything(), Some(base + 1));
    let mut seen = 0;
    while seen < 30 {
        let batch = next(&mut watch).await.unwrap();
        let (triples, rest) = batch.events.as_chunks::<3>();
        assert_eq!(rest.len(), 0, "a revision was torn");
        for triple in triples {
            seen += 1;
            assert!(triple.iter().all(|event| event.kv.mod_revision == base + seen));
            assert_eq!(triple[2].kv.value, "end");
        }
        assert_eq!(batch.revision, base + seen);
    }
}

async fn watches_follow_concurrent_writers_without_a_gap(world: World) {
    let base = world.revision().await;
    let mut early = world.watch(everything(), Some(base + 1));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let kv = world.kv.clone();
        writers.spawn(async move {
            for number in 0..50 {
                let name = format!("w{writer}/{}", number % 7);
                kv.txn(ops([put(&name, &number.to_string())])).await.unwrap();
            }
        });
    }
    tokio::task::yield_now().await;
    let mut late = world.watch(everything(), Some(base + 1));
    writers.join_all().await;
    for watch in [&mut early, &mut late] {
        let seen: Vec<_> =
            events(watch, 200).await.iter().map(|event| event.kv.mod_revision - base).collect();
        assert_eq!(seen, (1..=200).collect::<Vec<_>>());
    }
}

async fn a_watch_that_is_not_read_is_ended(world: World) {
    let base = world.revision().await;
    let mut idle = world.watch(single("a"), Some(base + 1));
    // It is there, and has caught up.
    world.put("a", "first").await;
    assert_eq!(events(&mut idle, 1).await.len(), 1);
    let value = "x".repeat(100_000);
    for _ in 0..60 {
        world.put("a", &value).await;
    }
    let mut seen = 1;
    let ended = loop {
        match next(&mut idle).await {
            Ok(batch) => {
                for event in batch.events {
                    seen += 1;
                    assert_eq!(event.kv.mod_revision, base + seen, "a gap before the end");
                }
            }
            Err(error) => break error,
        }
    };
    assert_eq!(ended, Error::WatchTooSlow);
    assert!(idle.next().await.is_none());
    // One that asks for the past gets it, however much it is.
    let mut late = world.watch(single("a"), Some(base + seen + 1));
    let missing = usize::try_from(61 - seen).unwrap();
    let rest: Vec<_> =
        events(&mut late, missing).await.iter().map(|event| event.kv.mod_revision - base).collect();
    assert_eq!(rest, (seen + 1..=61).collect::<Vec<_>>());
}

async fn a_range_that_holds_nothing_sees_nothing(world: World) {
    let base = world.revision().await;
    let backwards = KeyRange { key: "q".into(), end: Some("a".into()) };
    let mut watch = world.watch(backwards, Some(base + 1));
    world.put("m", "1").await;
    let present = world.kv.request_progress().await.unwrap();
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(batch.events, []);
    assert!(batch.revision >= present.min(base + 1));
}
