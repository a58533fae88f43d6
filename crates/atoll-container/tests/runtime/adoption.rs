//! Agents and shims die; containers and their records do not.

use std::process::Command;
use std::time::Duration;

use atoll_container::{ContainerRef, Event, State};

use crate::world::{DEADLINE, World, is_root, tear_down};

fn kill_shim(container: &ContainerRef) {
    let text = std::fs::read_to_string(container.dir.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&text).unwrap();
    let pid = state["shim_pid"].as_i64().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

fn pid(state: &State) -> i32 {
    match state {
        State::Running { pid, .. } => *pid,
        other => panic!("not running: {other:?}"),
    }
}

#[tokio::test]
async fn a_new_agent_finds_running_containers_and_those_that_ended_meanwhile() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("a1").await;
    let runs = world.run(&world.spec(&sandbox, "runs", &["sleep", "1000"])).await;
    let ends = world.run(&world.spec(&sandbox, "ends", &["sh", "-c", "sleep 0.2; exit 5"])).await;
    let waits = world.runtime.create(&world.spec(&sandbox, "waits", &["sleep", "1000"])).await;
    let waits = waits.unwrap();
    let before = pid(&world.observed(&runs).await.state);
    // The agent is gone while one ends.
    world.stop().await;
    let exit_file = ends.dir.join("exit.json");
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !exit_file.exists() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.restart().await;
    let mut found = world.runtime.list().await.unwrap();
    found.sort_by(|a, b| a.container.key.cmp(&b.container.key));
    assert_eq!(found.len(), 3);
    assert!(matches!(&found[0].state, State::Exited(exit) if exit.code == 5 && !exit.unknown));
    assert_eq!(pid(&found[1].state), before, "it was not restarted");
    assert!(found[1].shim_alive);
    assert_eq!(found[1].labels["k"], "v");
    assert_eq!(found[2].state, State::Created);
    // What was created can still be started, and what runs still ends with its code.
    world.runtime.start(&waits).await.unwrap();
    world
        .runtime
        .signal(&runs, atoll_container::Signal::KILL, atoll_container::Scope::All)
        .await
        .unwrap();
    assert_eq!(world.exit(&runs).await.signal, Some(9));
    tear_down(world, &["a1"]).await;
}

#[tokio::test]
async fn a_container_outlives_its_shim_and_its_exit_is_unknown() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("a2").await;
    let container = world.run(&world.spec(&sandbox, "c", &["sleep", "1000"])).await;
    let before = pid(&world.observed(&container).await.state);
    kill_shim(&container);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while world.observed(&container).await.shim_alive {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pid(&world.observed(&container).await.state), before);
    // Also for an agent that starts now.
    world.restart().await;
    assert_eq!(pid(&world.observed(&container).await.state), before);
    assert!(!world.observed(&container).await.shim_alive);
    world
        .runtime
        .signal(&container, atoll_container::Signal::KILL, atoll_container::Scope::All)
        .await
        .unwrap();
    let exit = world.exit(&container).await;
    assert!(exit.unknown && exit.code == 137, "{exit:?}");
    assert!(exit.started_at.is_some());
    tear_down(world, &["a2"]).await;
}

#[tokio::test]
async fn a_sandbox_that_is_halted_is_found_as_after_a_reboot() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("a6").await;
    let ended = world.run(&world.spec(&sandbox, "ended", &["sh", "-c", "exit 3"])).await;
    assert_eq!(world.exit(&ended).await.code, 3);
    let late = ["sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"];
    let cut = world.run(&world.spec(&sandbox, "cut", &late)).await;
    let own = world.run(&world.spec(&sandbox, "own", &["sleep", "1000"])).await;
    let made = world.runtime.create(&world.spec(&sandbox, "made", &["sh"])).await.unwrap();
    world.runtime.cut_off(&[cut.key.clone(), own.key.clone()]).await.unwrap();
    let (term, first) = (atoll_container::Signal::TERM, atoll_container::Scope::Init);
    world.runtime.signal(&cut, term, first).await.unwrap();
    assert_eq!(world.exit(&cut).await.code, 0, "this agent hears it as it is");
    world.runtime.halt_sandbox("a6").await.unwrap();
    for controller in ["memory", "freezer", "unified"] {
        let path = world.cgroup_path(controller, "poda6");
        assert!(!path.exists(), "{} is left", path.display());
    }
    world.restart().await;
    let found = async |container| world.observed(container).await.state;
    assert!(matches!(found(&ended).await, State::Exited(exit) if exit.code == 3 && !exit.unknown));
    for container in [&cut, &own] {
        let state = found(container).await;
        assert!(
            matches!(&state, State::Exited(exit) if exit.unknown && exit.code == 137
                && exit.started_at.is_some()),
            "{state:?}"
        );
    }
    let all = world.runtime.list().await.unwrap();
    assert!(all.iter().all(|one| one.container.key != made.key), "it had not begun");
    // And it goes on.
    let sandbox = world.sandbox("a6").await;
    assert!(sandbox.created);
    let mut next = world.spec(&sandbox, "cut", &["sh", "-c", "exit 0"]);
    next.attempt = 1;
    let next = world.run(&next).await;
    assert_eq!(world.exit(&next).await.code, 0);
    tear_down(world, &["a6"]).await;
}

#[tokio::test]
async fn a_container_that_died_with_its_shim_is_found_dead() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("a3").await;
    let container = world.run(&world.spec(&sandbox, "c", &["sleep", "1000"])).await;
    let first = pid(&world.observed(&container).await.state);
    kill_shim(&container);
    assert!(Command::new("kill").args(["-9", &first.to_string()]).status().unwrap().success());
    let exit = world.exit(&container).await;
    assert!(exit.unknown);
    world.restart().await;
    assert!(matches!(world.observed(&container).await.state, State::Exited(exit) if exit.unknown));
    // The name is free for the next attempt.
    let mut next = world.spec(&sandbox, "c", &["sh", "-c", "exit 0"]);
    next.attempt = 1;
    let next = world.run(&next).await;
    assert_eq!(world.exit(&next).await.code, 0);
    tear_down(world, &["a3"]).await;
}

#[tokio::test]
async fn a_grandchild_that_keeps_the_pipe_does_not_keep_the_container() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("a4").await;
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", "sleep 1000 & echo done; exit 6"]);
    // In the node's process namespace nothing takes the grandchild with it.
    spec.namespaces.pid = atoll_container::NamespaceMode::Host;
    let container = world.run(&spec).await;
    assert_eq!(world.exit(&container).await.code, 6);
    assert_eq!(world.output("c", "stdout"), "done\n");
    tear_down(world, &["a4"]).await;
}

#[tokio::test]
async fn events_go_on_after_a_new_agent() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("a5").await;
    let container = world.run(&world.spec(&sandbox, "c", &["sh", "-c", "sleep 0.3; exit 9"])).await;
    world.restart().await;
    world.runtime.list().await.unwrap();
    let event = tokio::time::timeout(DEADLINE, world.events.recv()).await.unwrap().unwrap();
    assert!(matches!(event, Event::Exited { key, exit } if key == container.key && exit.code == 9));
    tear_down(world, &["a5"]).await;
}
