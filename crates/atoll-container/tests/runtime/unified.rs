//! What holds on cgroup v2 alone: the names of its files, and its rules for groups.

use std::path::Path;
use std::time::Duration;

use atoll_container::{Resources, Scope, Signal};

use crate::world::{DEADLINE, World, is_root, tear_down};

/// Elsewhere there is nothing to test; `cargo xtask vm` runs these on such a machine.
fn is_v2() -> bool {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if !v2 {
        println!("skipped: this machine has no cgroup v2");
    }
    v2 && is_root()
}

#[tokio::test]
async fn limits_stand_in_the_files_of_v2() {
    if !is_v2() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("u1").await;
    let mut spec = world.spec(&sandbox, "c", &["sleep", "1000"]);
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 << 20),
        pids_limit: Some(10),
        cpuset_cpus: Some("0".into()),
    };
    let container = world.run(&spec).await;
    let group = world.cgroup_path("", "podu1/c");
    let read = |file: &str| match std::fs::read_to_string(group.join(file)) {
        Ok(text) => text.trim().to_owned(),
        // Not every kernel counts swap.
        Err(_) if file.contains("swap") => "0".to_owned(),
        Err(error) => panic!("{file}: {error}"),
    };
    // One processor's weight is 100, and half of one 59 on the runtimes' curve.
    assert_eq!(read("cpu.weight"), "59");
    assert_eq!(read("cpu.max"), "20000 100000");
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.swap.max"), "0");
    assert_eq!(read("memory.oom.group"), "1");
    assert_eq!(read("pids.max"), "10");
    assert_eq!(read("cpuset.cpus"), "0");
    // The same curve when it is changed.
    let change = Resources { cpu_shares: Some(1024), ..Resources::default() };
    world.runtime.update(&container, &change).await.unwrap();
    assert_eq!(read("cpu.weight"), "100");
    tear_down(world, &["u1"]).await;
}

#[tokio::test]
async fn lack_of_memory_ends_the_whole_container() {
    if !is_v2() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("u2").await;
    // The first process alone would survive its child.
    let script = "busybox sh -c 'x=a; while true; do x=$x$x; done'; echo survived";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.resources.memory_limit_bytes = Some(24 << 20);
    let container = world.run(&spec).await;
    let exit = world.exit(&container).await;
    assert!(exit.oom_killed && exit.code == 137, "{exit:?}");
    assert_eq!(world.output("c", "stdout"), "");
    tear_down(world, &["u2"]).await;
}

#[tokio::test]
async fn a_container_may_divide_its_group_and_commands_still_enter_it() {
    if !is_v2() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("u3").await;
    // As an init system or another container runtime does inside.
    let script = "own=$(cat /proc/self/cgroup); cd /sys/fs/cgroup/${own#0::} && mkdir own && \
                  echo $$ > own/cgroup.procs && echo +memory > cgroup.subtree_control && \
                  echo divided; touch /tmp/divided; sleep 1000";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.security.privileged = true;
    let container = world.run(&spec).await;
    let root = world.dir.path().join("root-fs");
    let deadline = std::time::Instant::now() + DEADLINE;
    while !root.join("tmp/divided").exists() {
        assert!(std::time::Instant::now() < deadline, "{}", world.log("c"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.output("c", "stdout"), "divided\n", "{}", world.log("c"));
    let command = crate::life::command(&["grep", "-q", "/own$", "/proc/self/cgroup"]);
    let handle = world.runtime.exec(&container, command).await.unwrap();
    assert_eq!(handle.into_parts().1.wait().await.unwrap(), 0, "{}", world.log("c"));
    world.runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
    world.exit(&container).await;
    tear_down(world, &["u3"]).await;
}
