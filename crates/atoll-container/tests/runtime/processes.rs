//! The process runtime: no root needed.

use atoll_container::{Error, Mount, MountSource, Propagation, Root, Scope, Signal, State};

use crate::life::{command, read_all};
use crate::world::{World, tear_down};

fn free(world: &World, name: &str, args: &[&str]) -> atoll_container::ContainerSpec {
    let sandbox = atoll_container::Sandbox {
        uid: "p".into(),
        net: None,
        ipc: None,
        uts: None,
        pid: None,
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

/// The root file system as an image's only layer, mounted by the container itself.
fn image(world: &World, name: &str, script: &str) -> atoll_container::ContainerSpec {
    let mut spec = free(world, name, &["sh", "-c", script]);
    let dir = world.dir.path();
    let [lower, upper, work] = ["root-fs", "upper", "work"].map(|sub| dir.join(sub));
    crate::world::rootfs(dir);
    for path in [&upper, &work] {
        std::fs::create_dir_all(path).unwrap();
    }
    spec.rootfs = dir.join("rootfs");
    spec.root = Root::Layers { lower: vec![lower], upper, work };
    spec
}

#[tokio::test]
async fn an_image_is_the_root_of_a_command_with_mounts_and_a_user_of_its_own() {
    let mut world = World::process().await;
    let script = "id -u; id -g; hostname; cat /made/here/file; pwd; ps | head -n 3; \
                  grep CapBnd /proc/self/status; echo x > /root/x; echo y > /made/here/file";
    let mut spec = image(&world, "c", script);
    let volume = world.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "seen\n").unwrap();
    spec.mounts.push(Mount {
        source: MountSource::Bind { path: volume.clone(), propagation: Propagation::None },
        destination: "/made/here".into(),
        read_only: true,
        no_exec: false,
    });
    (spec.process.user.uid, spec.process.user.gid) = (1234, 99);
    spec.process.cwd = "/work/dir".into();
    spec.hostname = Some("inner".into());
    spec.security.capabilities_drop = vec!["ALL".into()];
    let container = world.run(&spec).await;
    assert_eq!(world.exit(&container).await.code, 1, "the mount is read-only");
    let output = world.output("c", "stdout");
    assert!(output.starts_with("1234\n99\ninner\nseen\n/work/dir\n"), "{output}");
    assert!(output.contains("    1 1234"), "{output}");
    assert!(output.contains("CapBnd:\t0000000000000000"), "{output}");
    assert_eq!(std::fs::read_to_string(world.dir.path().join("upper/root/x")).unwrap(), "x\n");
    tear_down(world, &["p"]).await;
}

#[tokio::test]
async fn a_read_only_root_stays_so_and_commands_join_it() {
    let mut world = World::process().await;
    let mut spec = image(&world, "c", "touch /x || sleep 987");
    spec.security.read_only_rootfs = true;
    spec.process.cwd = "/not/there".into();
    let container = world.run(&spec).await;
    let script = "pwd; hostname; ls /proc/1/exe > /dev/null && echo inside; touch /y";
    let mut wish = command(&["sh", "-c", script]);
    wish.process.cwd = "/not/there".into();
    let handle = world.runtime.exec(&container, wish).await;
    let (mut streams, exit) = handle.unwrap().into_parts();
    let output = read_all(streams.stdout.take().unwrap()).await;
    assert!(output.starts_with("/not/there\n") && output.ends_with("inside\n"), "{output}");
    assert_eq!(exit.wait().await.unwrap(), 1);
    world.runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
    assert_eq!(world.exit(&container).await.signal, Some(9));
    assert!(world.output("c", "stderr").contains("Read-only file system"));
    tear_down(world, &["p"]).await;
}

#[tokio::test]
async fn folders_with_keys_are_hidden_from_commands_of_the_node() {
    let mut world = World::process().await;
    let keys = world.dir.path().join("keys");
    std::fs::create_dir(&keys).unwrap();
    std::fs::write(keys.join("key"), "secret").unwrap();
    let script = format!("ls -a {0}; test -e {0}/key; echo $?; ls /etc/passwd", keys.display());
    let mut spec = free(&world, "c", &["sh", "-c", &script]);
    spec.root = Root::Node { hidden: vec![keys], programs: None };
    let container = world.run(&spec).await;
    assert_eq!(world.exit(&container).await.code, 0);
    assert_eq!(world.output("c", "stdout"), ".\n..\n1\n/etc/passwd\n");
    tear_down(world, &["p"]).await;
}
