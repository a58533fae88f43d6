//! Limits, use of resources, lack of memory, and the shim's own cost.

use std::time::Duration;

use atoll_container::{Error, Event, Resources, Scope, Signal};

use crate::world::{DEADLINE, World, is_root, tear_down};

const MIB: i64 = 1 << 20;

#[tokio::test]
async fn lack_of_memory_is_told_apart_from_a_kill() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("l1").await;
    let hog = "head -c 200m /dev/zero | tail";
    let mut spec = world.spec(&sandbox, "hog", &["busybox", "sh", "-c", hog]);
    spec.process.args = vec![
        "/bin/busybox".into(),
        "sh".into(),
        "-c".into(),
        "x=a; while true; do x=$x$x; done".into(),
    ];
    spec.resources.memory_limit_bytes = Some(24 * MIB);
    let container = world.run(&spec).await;
    let mut oom = false;
    let exit = loop {
        match tokio::time::timeout(DEADLINE, world.events.recv()).await.unwrap().unwrap() {
            Event::Oom { key } if key == container.key => oom = true,
            Event::Exited { key, exit } if key == container.key => break exit,
            _ => {}
        }
    };
    assert!(oom, "the event came first");
    assert!(exit.oom_killed && exit.code == 137, "{exit:?}");

    let mut spec = world.spec(&sandbox, "killed", &["sleep", "1000"]);
    spec.resources.memory_limit_bytes = Some(24 * MIB);
    let container = world.run(&spec).await;
    world.runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
    let exit = world.exit(&container).await;
    assert!(!exit.oom_killed && exit.code == 137, "{exit:?}");
    tear_down(world, &["l1"]).await;
}

#[tokio::test]
async fn limits_are_set_changed_and_use_is_counted() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("l2").await;
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", "while true; do :; done"]);
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(20_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 * MIB),
        pids_limit: Some(10),
        cpuset_cpus: None,
    };
    let container = world.run(&spec).await;
    let stats = world.runtime.stats(&container).await.unwrap();
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    assert_eq!(stats.pids, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let later = world.runtime.stats(&container).await.unwrap();
    let used = Duration::from_nanos(later.cpu_usage_ns - stats.cpu_usage_ns);
    assert!(used > Duration::from_millis(50) && used < Duration::from_millis(450), "{used:?}");
    for limit in [32 * MIB, 128 * MIB] {
        let change = Resources { memory_limit_bytes: Some(limit), ..Resources::default() };
        world.runtime.update(&container, &change).await.unwrap();
        let stats = world.runtime.stats(&container).await.unwrap();
        assert_eq!(stats.memory_limit_bytes, u64::try_from(limit).ok());
    }
    let error = world.runtime.remove(&container).await.unwrap_err();
    assert!(matches!(error, Error::StillRunning { .. }));
    tear_down(world, &["l2"]).await;
}

#[tokio::test]
async fn a_fork_bomb_ends_with_its_container() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("l3").await;
    let bomb = "f() { f | f & }; f; sleep 1000";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", bomb]);
    spec.resources.pids_limit = Some(50);
    // Without a process namespace only the cgroup holds them together.
    spec.namespaces.pid = atoll_container::NamespaceMode::Host;
    let container = world.run(&spec).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
    world.exit(&container).await;
    tear_down(world, &["l3"]).await;
}

/// Not `Private_Dirty`: that counts the pages of a program that was just linked, too.
fn anonymous_kb(pid: i64) -> u64 {
    std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap()
}

fn cpu_ticks(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn a_shim_is_small_and_sleeps() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("l4").await;
    let script = "seq 1 5000; sleep 1000";
    let container = world.run(&world.spec(&sandbox, "c", &["sh", "-c", script])).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let text = std::fs::read_to_string(container.dir.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pid = state["shim_pid"].as_i64().unwrap();
    let dirty = anonymous_kb(pid);
    println!("private memory of a shim: {dirty} kB");
    assert!(dirty <= 300, "{dirty} kB");
    let before = cpu_ticks(pid);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(cpu_ticks(pid), before, "an idle shim uses the processor");
    tear_down(world, &["l4"]).await;
}

#[tokio::test]
async fn a_container_cannot_lift_its_own_limits() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("l9").await;
    let script = "for f in $(find /sys/fs/cgroup -name 'memory.limit_in_bytes' -o -name memory.max); \
                  do echo 1000000000 > $f && echo lifted; done 2>/dev/null; \
                  find /sys/fs/cgroup -name cgroup.procs -writable; touch /tmp/done; sleep 1000";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.resources.memory_limit_bytes = Some(64 * MIB);
    let container = world.run(&spec).await;
    let wait = ["sh", "-c", "while ! test -f /tmp/done; do sleep 0.1; done"];
    let handle = world.runtime.exec(&container, crate::life::command(&wait)).await.unwrap();
    assert_eq!(handle.into_parts().1.wait().await.unwrap(), 0);
    assert_eq!(world.output("c", "stdout"), "");
    let stats = world.runtime.stats(&container).await.unwrap();
    assert_eq!(stats.memory_limit_bytes, Some(64 << 20));
    tear_down(world, &["l9"]).await;
}
