//! What is left in the system when clusters end, however they end: nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

mod ends;
mod random;

use atoll_e2e::{
    Cluster,
    cluster::{binary, run, workspace},
    eventually, is_root, system,
};
use std::{collections::BTreeSet, process::Command, time::Duration};

const READY: Duration = Duration::from_secs(60);

fn hello(cluster: &Cluster) {
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    cluster.pods_ready("app=hello", 5, READY);
}

/// Other tests on the machine may be in the middle of something, so it is looked again.
fn as_before(before: &BTreeSet<String>) {
    eventually(Duration::from_secs(20), "the machine is as before", || {
        let difference = system::left(before, &system::state());
        if difference.is_empty() { Ok(()) } else { Err(difference.join("\n")) }
    });
}

#[test]
fn a_cluster_with_dead_and_isolated_nodes_leaves_nothing() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let mut cluster = Cluster::start(3);
    hello(&cluster);
    cluster.chaos("kill", "node-3");
    cluster.chaos("isolate", "node-2");
    cluster.stop();
    as_before(&before);
}

#[test]
fn the_next_start_clears_up_after_a_cluster_whose_folder_is_gone() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let mut gone = Cluster::start(2);
    hello(&gone);
    gone.chaos("kill", "node-2");
    let id = system::id_of(&gone.dir);
    gone.kill();
    // Mounts keep parts of it, as they do for anyone who deletes it.
    let mut remove = Command::new("rm");
    remove.arg("-rf").arg(&gone.dir);
    run(remove, "");
    assert!(!gone.dir.join("cluster.json").exists());
    for kind in ["link: ", "mount: ", "cgroup: ", "file: "] {
        let left = system::named(&id);
        assert!(left.iter().any(|line| line.starts_with(kind)), "no {kind}in {left:?}");
    }

    let mut next = Cluster::start(1);
    next.stop();
    as_before(&before);
    assert_eq!(system::named(&id), BTreeSet::new());
    assert!(!gone.dir.exists(), "{} is left", gone.dir.display());
}

#[test]
fn a_copy_of_a_folder_does_not_touch_the_original() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let mut cluster = Cluster::start(1);
    let copy = cluster.dir.with_extension("copy");
    let mut copying = Command::new("cp");
    copying.arg("-a").arg(&cluster.dir).arg(&copy);
    run(copying, "").ok();
    let start = || {
        let mut command = Command::new(binary());
        command.arg("dev").arg("--data-dir").arg(&copy).args(["--port", "0"]);
        run(command, "").fails()
    };
    let refused = start();
    assert!(refused.contains(&format!("is a copy of {}", cluster.dir.display())), "{refused}");
    cluster.json(&["nodes"]);
    cluster.kill();
    let refused = start();
    assert!(refused.contains("has not been stopped"), "{refused}");
    // Any port that is free.
    cluster.port = 0;
    cluster.launch();
    cluster.json(&["nodes"]);
    cluster.stop();
    as_before(&before);
}
