//! Which devices a container may open: the device cgroup of v1, or the filter on v2.

use atoll_container::Device;

use crate::world::{World, is_root, tear_down};

/// Whoever is root may write to the kernel's log, unless the cgroup forbids it.
const KMSG: &str = "/dev/kmsg";

#[tokio::test]
async fn a_device_that_was_not_given_cannot_be_opened_though_its_node_can_be_made() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("d1").await;
    let script = "mknod /tmp/log c 1 11 && echo made; \
                  (: > /tmp/log) 2>&1 | grep -o 'Operation not permitted'; \
                  (: > /dev/null) && head -c 1 /dev/zero | tr '\\0' 'z'; \
                  (echo x > /dev/full) 2>/dev/null || echo full";
    let container = world.run(&world.spec(&sandbox, "c", &["sh", "-c", script])).await;
    world.exit(&container).await;
    let out = world.output("c", "stdout");
    assert_eq!(out, "made\nOperation not permitted\nzfull\n", "{}", world.log("c"));
    // The same for a command that comes later.
    let container = world.run(&world.spec(&sandbox, "d", &["sleep", "1000"])).await;
    let open = ["sh", "-c", "mknod /tmp/late c 1 11 && : > /tmp/late"];
    let handle = world.runtime.exec(&container, crate::life::command(&open)).await.unwrap();
    assert_eq!(handle.into_parts().1.wait().await.unwrap(), 1);
    tear_down(world, &["d1"]).await;
}

#[tokio::test]
async fn a_device_that_was_given_can_be_opened_as_it_was_given() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("d2").await;
    let script = "(: > /dev/log0) && echo written; \
                  (: <> /dev/log0) 2>&1 | grep -o 'Operation not permitted'";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.devices = vec![Device {
        host_path: KMSG.into(),
        container_path: "/dev/log0".into(),
        permissions: "w".into(),
    }];
    let container = world.run(&spec).await;
    world.exit(&container).await;
    assert_eq!(world.output("c", "stdout"), "written\nOperation not permitted\n");
    tear_down(world, &["d2"]).await;
}

#[tokio::test]
async fn a_privileged_container_opens_every_device() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("d3").await;
    let script = "mknod /tmp/log c 1 11 && (: > /tmp/log) && echo written";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.security.privileged = true;
    let container = world.run(&spec).await;
    world.exit(&container).await;
    assert_eq!(world.output("c", "stdout"), "written\n", "{}", world.log("c"));
    tear_down(world, &["d3"]).await;
}
