//! The process runtime: no root needed.

use atoll_container::{Error, Root, Scope, Signal, State};

use crate::life::{command, read_all};
use crate::world::{World, tear_down};

fn free(world: &World, name: &str, args: &[&str]) -> atoll_container::ContainerSpec {
    let sandbox = atoll_container::Sandbox {
        uid: "p".into(),
        net: None,
        ipc: None,
        uts: None,
        created: false,
    };
    let mut spec = world.spec(&sandbox, name, args);
    spec.root = Root::Node { hidden: Vec::new(), programs: None };
    spec
}

#[tokio::test]
async fn a_command_of_the_node_logs_and_tells_its_code() {
    let mut world = World::process().await;
    let script = "echo $GREETING $HOME; echo bad >&2; exit 3";
    let container = world.run(&free(&world, "c", &["sh", "-c", script])).await;
    let exit = world.exit(&container).await;
    assert_eq!(exit.code, 3);
    assert!(world.output("c", "stdout").starts_with("hello /"));
    assert_eq!(world.output("c", "stderr"), "bad\n");
    tear_down(world, &["p"]).await;
}

#[tokio::test]
async fn a_killed_command_takes_its_children_along_and_is_adopted() {
    let mut world = World::process().await;
    let script = "sleep 987 & sleep 987; true";
    let container = world.run(&free(&world, "c", &["sh", "-c", script])).await;
    world.restart().await;
    assert!(matches!(world.observed(&container).await.state, State::Running { .. }));
    let handle = world.runtime.exec(&container, command(&["sh", "-c", "echo in; exit 4"])).await;
    let (mut streams, exit) = handle.unwrap().into_parts();
    assert_eq!(read_all(streams.stdout.take().unwrap()).await, "in\n");
    assert_eq!(exit.wait().await.unwrap(), 4);
    world.runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
    assert_eq!(world.exit(&container).await.signal, Some(9));
    tear_down(world, &["p"]).await;
}

#[tokio::test]
async fn what_it_cannot_honour_is_refused_by_name() {
    let world = World::process().await;
    let mut spec = free(&world, "c", &["true"]);
    spec.resources.memory_limit_bytes = Some(1 << 20);
    let error = world.runtime.create(&spec).await.unwrap_err();
    assert!(matches!(&error, Error::Unsupported { field: "resources.limits", .. }), "{error}");
    let error = world.runtime.create(&free(&world, "c", &["/nope"])).await.unwrap_err();
    assert!(error.to_string().contains("no such file or directory"), "{error}");
    tear_down(world, &["p"]).await;
}
