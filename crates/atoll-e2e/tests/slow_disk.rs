//! A server whose disk takes its time, and then refuses: FUSE serves its folder.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, disk::SlowDisk, eventually, is_root};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

const SYNC_MS: u64 = 200;

#[test]
fn a_slow_disk_slows_down_and_loses_nothing() {
    if !is_root("slow_disk") {
        return;
    }
    let folder = tempfile::Builder::new().prefix("atoll-slow-").tempdir().unwrap();
    let data = folder.path().join("data");
    let slow = SlowDisk::mount(folder.path(), &data.join("server"), SYNC_MS);
    let mut cluster = Cluster::start_in(&data, 3);
    cluster.hello();
    let (health, containers) = (cluster.node_health(), cluster.containers());
    let begun = Instant::now();
    let mut acknowledged = writes(&cluster, "before");
    let most = begun.elapsed();
    assert!(most >= Duration::from_millis(SYNC_MS) * 5, "five writes took {most:?}");
    acknowledged.extend(killed_while_writing(&cluster));
    refused_while_syncs_fail(&cluster, &slow);
    eventually(Duration::from_secs(20), "writes are taken again", || {
        let created = cluster.kubectl(&["create", "configmap", "after"]);
        if created.code == 0 { Ok(()) } else { Err(created.stderr) }
    });
    acknowledged.insert("configmap/after".to_owned());
    assert_eq!(cluster.node_health(), health, "no node was lost for it");
    assert_eq!(cluster.containers(), containers);

    cluster.kill();
    cluster.launch();
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    let stored: BTreeSet<String> = names.lines().map(ToOwned::to_owned).collect();
    let lost: Vec<&String> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{lost:?} of {} were lost", acknowledged.len());
    cluster.pods_ready("app=hello", 5, Duration::from_secs(30));
    assert_eq!(cluster.containers(), containers);
    cluster.stop();
    drop(slow);
}

/// Five objects; the names of those that the server said it has.
fn writes(cluster: &Cluster, name: &str) -> BTreeSet<String> {
    let names = (0..5).map(|index| format!("{name}-{index}"));
    let taken = names.filter(|name| cluster.kubectl(&["create", "configmap", name]).code == 0);
    taken.map(|name| format!("configmap/{name}")).collect()
}

fn killed_while_writing(cluster: &Cluster) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        let name = format!("killed-{round}");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| writes(cluster, &name));
            sleep(Duration::from_millis(700));
            for pid in cluster.pids("server --data-dir") {
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
            }
            acknowledged.extend(writer.join().unwrap());
        });
    }
    assert!(acknowledged.len() > 3, "{acknowledged:?}");
    acknowledged
}

/// A write that could not be synced is not acknowledged. Its server ends, since only a new one
/// knows what is on the disk.
fn refused_while_syncs_fail(cluster: &Cluster, slow: &SlowDisk) {
    slow.fail(true);
    let before = cluster.pids("server --data-dir");
    cluster.kubectl(&["create", "configmap", "refused", "--request-timeout=5s"]).fails();
    eventually(Duration::from_secs(20), "the server ends", || {
        if cluster.pids("server --data-dir") == before { Err(cluster.logs()) } else { Ok(()) }
    });
    slow.fail(false);
}
