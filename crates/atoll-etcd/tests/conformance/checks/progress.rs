//! Progress: what a watch says that it has seen, it has sent.

use std::collections::BTreeSet;

use atoll_store::kv::Revision;

use crate::world::{Watch, World, events, everything, next, ops, prefix, put, single};

super::checks!(
    a_watch_tells_that_it_has_reached_the_present,
    writes_elsewhere_show_as_progress,
    every_open_watch_answers_every_request,
    progress_never_overtakes_events,
);

/// The first batch without events, and what came before.
async fn until_progress(watch: &mut Watch, at_least: Revision) -> Revision {
    loop {
        let batch = next(watch).await.unwrap();
        if batch.revision >= at_least {
            return batch.revision;
        }
    }
}

async fn a_watch_tells_that_it_has_reached_the_present(world: World) {
    let base = world.put("a", "1").await;
    let mut watch = world.watch(single("a"), Some(base));
    assert_eq!(events(&mut watch, 1).await.len(), 1);
    let present = world.kv.request_progress().await.unwrap();
    assert!(present >= base);
    let batch = next(&mut watch).await.unwrap();
    assert_eq!(batch.events, []);
    assert!(batch.revision >= present, "{} < {present}", batch.revision);
}

async fn writes_elsewhere_show_as_progress(world: World) {
    let base = world.revision().await;
    let mut watch = world.watch(prefix("a/"), Some(base + 1));
    for number in 0..5 {
        world.put("elsewhere", &number.to_string()).await;
    }
    let present = world.kv.request_progress().await.unwrap();
    assert!(present >= base + 5);
    assert!(until_progress(&mut watch, present).await >= base + 5);
}

async fn every_open_watch_answers_every_request(world: World) {
    let base = world.put("a", "1").await;
    let mut watches: Vec<Watch> =
        (0..20).map(|number| world.watch(prefix(&format!("p{number}/")), Some(base + 1))).collect();
    for _ in 0..3 {
        world.put("a", "2").await;
        let present = world.kv.request_progress().await.unwrap();
        for watch in &mut watches {
            until_progress(watch, present).await;
        }
    }
}

/// etcd #15220: whoever hears of a revision has been sent everything up to it.
async fn progress_never_overtakes_events(world: World) {
    let base = world.revision().await;
    let mut watch = world.watch(everything(), Some(base + 1));
    let kv = world.kv.clone();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let kv = kv.clone();
        writers.spawn(async move {
            let mut mine = Vec::new();
            for number in 0..60 {
                let txn = ops([put(&format!("w{writer}"), &number.to_string())]);
                mine.push(kv.txn(txn).await.unwrap().revision);
            }
            mine
        });
    }
    let mut asking = tokio::task::JoinSet::new();
    asking.spawn(async move {
        for _ in 0..40 {
            kv.request_progress().await.unwrap();
        }
    });
    let mut seen = BTreeSet::new();
    let mut told = Vec::new();
    while seen.len() < 180 {
        let batch = next(&mut watch).await.unwrap();
        for event in &batch.events {
            assert!(seen.insert(event.kv.mod_revision), "sent twice");
            assert!(event.kv.mod_revision <= batch.revision);
        }
        told.push((batch.revision, seen.len()));
    }
    asking.join_all().await;
    let written: BTreeSet<Revision> = writers.join_all().await.concat().into_iter().collect();
    assert_eq!(seen, written);
    for (revision, count) in told {
        assert_eq!(written.range(..=revision).count(), count, "at {revision}");
    }
}
