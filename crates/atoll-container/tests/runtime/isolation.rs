//! What a container may see and do.

use std::os::unix::fs::MetadataExt;

use atoll_container::{Mount, MountSource, Propagation, Seccomp, User};

use crate::life::{command, read_all};
use crate::world::{World, is_root, tear_down};

/// As `/proc/<pid>/status` writes the default set.
pub(crate) fn default_capabilities() -> &'static str {
    "00000000a80425fb"
}

async fn inside(world: &World, container: &atoll_container::ContainerRef, script: &str) -> String {
    let handle = world.runtime.exec(container, command(&["sh", "-c", script])).await.unwrap();
    let (mut streams, exit) = handle.into_parts();
    let out = read_all(streams.stdout.take().unwrap()).await;
    exit.wait().await.unwrap();
    out
}

#[tokio::test]
async fn the_default_confinement_is_that_of_other_runtimes() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("i1").await;
    let script = "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs|SigIgn|SigBlk|THP_enabled):' /proc/self/status; \
                  unshare -m true 2>/dev/null || echo no unshare; \
                  mount -t tmpfs x /tmp 2>/dev/null || echo no mount; \
                  echo x > /proc/sys/kernel/hostname 2>/dev/null || echo no sysctl; \
                  touch /sys/x 2>/dev/null || echo no sysfs; \
                  mknod /tmp/d b 254 0 && head -c 1 /tmp/d 2>/dev/null || echo no device; \
                  ls /proc/1/fd; sleep 1000";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.oom_score_adj = Some(500);
    let container = world.run(&spec).await;
    let ready = inside(&world, &container, "sleep 0.5; ls /dev").await;
    let score = inside(&world, &container, "cat /proc/self/oom_score_adj").await;
    assert_eq!(score, "500\n", "a command beside it is as dear as its own");
    assert!(ready.contains("null") && ready.contains("shm") && !ready.contains("vda"), "{ready}");
    let out = world.output("c", "stdout");
    let caps = default_capabilities();
    let expected = format!(
        "THP_enabled:\t1\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n\
                    CapEff:\t{caps}\nCapBnd:\t{caps}\nNoNewPrivs:\t0\n\
                    Seccomp:\t2\nno unshare\nno mount\nno sysctl\nno sysfs\nno device\n0\n1\n2\n"
    );
    assert_eq!(out, expected);
    tear_down(world, &["i1"]).await;
}

#[tokio::test]
async fn no_new_privileges_read_only_root_and_user_are_honoured() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("i2").await;
    let script = "id; grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status; \
                  touch /data/x 2>/dev/null || echo read-only";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.security.no_new_privileges = true;
    spec.security.read_only_rootfs = true;
    spec.process.user = User { uid: 1000, gid: 3000, additional_gids: vec![4000] };
    spec.process.cwd = "/srv/made/by-the-runtime".into();
    spec.process.args[2].push_str("; pwd");
    let container = world.run(&spec).await;
    assert_eq!(world.exit(&container).await.code, 0);
    assert_eq!(
        world.output("c", "stdout"),
        "uid=1000(app) gid=3000 groups=3000,4000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n\
         Seccomp:\t2\nread-only\n/srv/made/by-the-runtime\n"
    );
    tear_down(world, &["i2"]).await;
}

#[tokio::test]
async fn a_privileged_container_has_everything() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("i3").await;
    let script = "grep -E '^Seccomp:' /proc/self/status; mount -t tmpfs x /tmp && echo mounted";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.security.privileged = true;
    spec.security.seccomp = Seccomp::RuntimeDefault;
    let container = world.run(&spec).await;
    assert_eq!(world.exit(&container).await.code, 0);
    assert_eq!(world.output("c", "stdout"), "Seccomp:\t0\nmounted\n");
    tear_down(world, &["i3"]).await;
}

#[tokio::test]
async fn containers_of_a_sandbox_share_its_namespaces_and_mounts_appear() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("i4").await;
    let shared = world.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the node\n").unwrap();
    let script = "cat /mnt/v/file; touch /mnt/v/x 2>/dev/null || echo read-only; \
                  echo hi > /dev/shm/word; cat /proc/self/mounts | grep -c ' /mnt/t tmpfs'";
    let mut spec = world.spec(&sandbox, "one", &["sh", "-c", script]);
    spec.mounts = vec![
        Mount {
            source: MountSource::Bind { path: shared.clone(), propagation: Propagation::None },
            destination: "/mnt/v".into(),
            read_only: true,
            no_exec: false,
        },
        Mount {
            source: MountSource::Tmpfs { size_bytes: 1 << 20, mode: 0o1777 },
            destination: "/mnt/t".into(),
            read_only: false,
            no_exec: false,
        },
    ];
    let one = world.run(&spec).await;
    assert_eq!(world.exit(&one).await.code, 0, "{}", world.log("one"));
    assert_eq!(world.output("one", "stdout"), "from the node\nread-only\n1\n");
    let two =
        world.run(&world.spec(&sandbox, "two", &["sh", "-c", "cat /dev/shm/word; hostname"])).await;
    assert_eq!(world.exit(&two).await.code, 0);
    assert_eq!(world.output("two", "stdout"), "hi\nbox\n");
    // The same sandbox is found, not made again.
    let net = sandbox.net.clone().unwrap();
    let again = world.sandbox("i4").await;
    assert!(!again.created && again.net == sandbox.net);
    let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
    assert_ne!(std::fs::metadata(&net).unwrap().ino(), own);
    tear_down(world, &["i4"]).await;
}

/// A mount of the node that is gone when this is.
struct OnNode(std::path::PathBuf);

impl OnNode {
    fn new(path: std::path::PathBuf) -> OnNode {
        std::fs::create_dir_all(&path).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", &path, "tmpfs", flags, None).unwrap();
        OnNode(path)
    }
}

impl Drop for OnNode {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.0, flags).expect("unmounting");
    }
}

#[tokio::test]
async fn mounts_come_through_only_where_that_is_asked_for() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("i5").await;
    let shared = OnNode::new(world.dir.path().join("shared"));
    rustix::mount::mount_change(&shared.0, rustix::mount::MountPropagationFlags::SHARED).unwrap();
    let mount = |at: &str, propagation| Mount {
        source: MountSource::Bind { path: shared.0.clone(), propagation },
        destination: at.into(),
        read_only: false,
        no_exec: false,
    };
    let mut alone = world.spec(&sandbox, "alone", &["sleep", "1000"]);
    alone.mounts = vec![mount("/mnt/none", Propagation::None)];
    let mut mixed = world.spec(&sandbox, "mixed", &["sleep", "1000"]);
    mixed.mounts = vec![
        mount("/mnt/none", Propagation::None),
        mount("/mnt/hears", Propagation::HostToContainer),
    ];
    let mut tells = world.spec(&sandbox, "tells", &["sleep", "1000"]);
    tells.security.privileged = true;
    tells.mounts = vec![
        mount("/mnt/none", Propagation::None),
        mount("/mnt/tells", Propagation::Bidirectional),
    ];
    let (alone, mixed) = (world.run(&alone).await, world.run(&mixed).await);
    let tells = world.run(&tells).await;
    let later = OnNode::new(shared.0.join("later"));
    std::fs::write(later.0.join("file"), "").unwrap();
    let script = "mkdir -p /mnt/tells/own && mount -t tmpfs x /mnt/tells/own && touch \
                  /mnt/tells/own/word; ls /mnt/*/later /mnt/*/own";
    let seen = inside(&world, &tells, script).await;
    assert_eq!(
        seen,
        "/mnt/none/later:\n\n/mnt/none/own:\n\n/mnt/tells/later:\nfile\n\n/mnt/tells/own:\nword\n"
    );
    assert!(shared.0.join("own/word").exists(), "the node sees what the container mounted");
    let list = "ls /mnt/*/later /mnt/*/own";
    assert_eq!(inside(&world, &alone, list).await, "/mnt/none/later:\n\n/mnt/none/own:\n");
    assert_eq!(
        inside(&world, &mixed, list).await,
        "/mnt/hears/later:\nfile\n\n/mnt/hears/own:\nword\n\n/mnt/none/later:\n\n/mnt/none/own:\n"
    );
    rustix::mount::unmount(shared.0.join("own"), rustix::mount::UnmountFlags::DETACH).unwrap();
    drop((later, shared));
    tear_down(world, &["i5"]).await;
}
