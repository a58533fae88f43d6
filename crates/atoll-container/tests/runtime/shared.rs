//! Containers of a sandbox that see each other's processes.

use std::path::{Path, PathBuf};

use atoll_container::{ContainerSpec, NamespaceMode, Sandbox, SandboxSpec, Scope, Signal, State};

use crate::life::{command, read_all};
use crate::world::{World, is_root, sandbox_spec, tear_down};

async fn sandbox(world: &World) -> Sandbox {
    let spec = SandboxSpec { shared_processes: true, ..sandbox_spec("s") };
    world.runtime.ensure_sandbox(&spec).await.unwrap()
}

fn spec(world: &World, sandbox: &Sandbox, name: &str, script: &str) -> ContainerSpec {
    let mut spec = world.spec(sandbox, name, &["sh", "-c", script]);
    spec.namespaces.pid = NamespaceMode::Path(sandbox.pid.clone().unwrap());
    spec
}

async fn says(world: &mut World, sandbox: &Sandbox, name: &str, script: &str) -> String {
    let container = world.run(&spec(world, sandbox, name, script)).await;
    world.exit(&container).await;
    world.output(name, "stdout") + &world.output(name, "stderr")
}

/// The process that keeps the namespace, as the node sees it.
fn keeper(sandbox: &Sandbox) -> PathBuf {
    let namespace = std::fs::metadata(sandbox.pid.as_ref().unwrap()).unwrap();
    let is_it = |dir: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        let own = std::fs::metadata(dir.join("ns/pid"));
        let first = std::fs::read_to_string(dir.join("cmdline"));
        own.is_ok_and(|own| own.ino() == namespace.ino())
            && first.is_ok_and(|line| line == "/pause\0")
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes.into_iter().find(|dir| is_it(dir)).expect("the namespace has its first process")
}

#[tokio::test]
async fn containers_of_a_sandbox_see_each_other_and_nothing_of_the_node() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let shared = sandbox(&world).await;
    let a = world.run(&spec(&world, &shared, "a", "sleep 1234 & sleep 4321; true")).await;
    // An agent that starts again finds the same namespace.
    world.restart().await;
    assert_eq!(sandbox(&world).await, Sandbox { created: false, ..shared.clone() });
    let script = "ps; cat /proc/1/cmdline; ls /sys/fs/cgroup; cat /proc/mounts";
    let seen = says(&mut world, &shared, "b", script).await;
    for words in ["sleep 1234", "sleep 4321", "/pause", "cgroup"] {
        assert!(seen.contains(words), "{words} in {seen}");
    }
    // Its first process leads nowhere, and nothing sent to it from inside ends it.
    let hostile = "ls /proc/1/root/ ; cat /proc/1/exe; cat /proc/1/environ; kill -9 1; \
                   kill -15 1; grep -E 'CapPrm|CapBnd|Uid|NoNewPrivs' /proc/1/status";
    let said = says(&mut world, &shared, "c", hostile).await;
    assert_eq!(said.matches("Permission denied").count(), 3, "{said}");
    assert!(said.contains("65535") && said.contains("CapPrm:\t0000000000000000"), "{said}");
    // Neither does it show the node's network; nor does it lead out with the right to look.
    let mut looking = spec(
        &world,
        &shared,
        "f",
        "grep -c : /proc/1/net/dev; ls /proc/1/root/; \
        cat /proc/1/root/etc/passwd; touch /proc/1/root/x; readlink /proc/1/ns/net; readlink /proc/self/ns/net",
    );
    looking.security.capabilities_add = vec!["SYS_PTRACE".to_owned()];
    let container = world.run(&looking).await;
    world.exit(&container).await;
    let said = world.output("f", "stdout");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..2], ["1", "pause"], "{said}");
    assert_eq!(lines[2], lines[3], "the network is the sandbox's: {said}");
    let wrong = world.output("f", "stderr");
    assert!(wrong.contains("No such file") && wrong.contains("Read-only file system"), "{wrong}");
    // One whose command ends takes what it started along, and nobody else.
    let running = says(&mut world, &shared, "d", "sleep 777 & ps").await;
    assert!(running.contains("sleep 777"), "{running}");
    let seen = says(&mut world, &shared, "e", "ps").await;
    assert!(!seen.contains("sleep 777") && seen.contains("sleep 4321"), "{seen}");
    assert!(!seen.contains('Z'), "orphans are reaped: {seen}");
    // Commands run in the same namespace.
    let handle = world.runtime.exec(&a, command(&["ps"])).await;
    let (mut streams, exit) = handle.unwrap().into_parts();
    assert!(read_all(streams.stdout.take().unwrap()).await.contains("/pause"));
    exit.wait().await.unwrap();
    let kept = keeper(&shared);
    world.runtime.signal(&a, Signal::KILL, Scope::All).await.unwrap();
    world.exit(&a).await;
    tear_down(world, &["s"]).await;
    // Whoever adopted it may not have looked yet.
    let left = std::fs::read_to_string(kept.join("cmdline")).unwrap_or_default();
    assert_eq!(left, "", "{} runs", kept.display());
}

#[tokio::test]
async fn a_first_process_that_was_killed_is_made_anew() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let shared = sandbox(&world).await;
    let a = world.run(&spec(&world, &shared, "a", "sleep 1000")).await;
    let kept = keeper(&shared);
    let pid: i32 = kept.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(world.exit(&a).await.signal, Some(9));
    let error = world.runtime.create(&spec(&world, &shared, "b", "true")).await.unwrap_err();
    assert!(error.to_string().contains("creating container"), "{error}");
    let again = sandbox(&world).await;
    assert_eq!(again, Sandbox { created: false, ..shared });
    let c = world.run(&spec(&world, &again, "c", "sleep 1000")).await;
    assert!(matches!(world.observed(&c).await.state, State::Running { .. }));
    world.runtime.signal(&c, Signal::KILL, Scope::All).await.unwrap();
    world.exit(&c).await;
    tear_down(world, &["s"]).await;
}
