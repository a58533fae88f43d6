//! Debian 12 as it is installed: its kernel, and cgroup v2 alone.
//!
//! The first test boots such a machine and runs the node suite in it, the other tests of
//! this file included; they run on this machine itself too where it has cgroup v2.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test, which may block"
)]

use atoll_e2e::{
    Cluster,
    cluster::{binary, run, workspace},
    eventually,
    http::get,
    is_root,
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const ROOT: &str = "/sys/fs/cgroup";

/// The machine may be emulated.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between looks, so that looking does not slow down what is looked at.
const PAUSE: Duration = Duration::from_secs(1);

const HUNGRY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: atoll.local/hello:1
    command: [/host/busybox, sh, -c, "x=a; while true; do x=$x$x; done"]
    resources: {limits: {memory: 24Mi, cpu: 500m}}
    volumeMounts: [{name: bin, mountPath: /host, readOnly: true}]
  volumes: [{name: bin, hostPath: {path: /bin}}]
"#;

#[test]
fn the_node_suite_passes_on_debian_12s_cloud_kernel() {
    if !is_root("cgroup_v2") {
        return;
    }
    let status = Command::new("cargo")
        .args(["xtask", "vm", "--atoll"])
        .arg(binary())
        .current_dir(workspace())
        .status()
        .unwrap();
    assert!(status.success(), "cargo xtask vm: {status}");
}

fn is_v2(test: &str) -> bool {
    let v2 = Path::new(ROOT).join("cgroup.controllers").exists();
    if !v2 {
        println!("{test}: skipped, this machine has no cgroup v2; `cargo xtask vm` makes one");
    }
    v2 && is_root(test)
}

#[test]
fn a_cluster_runs_heals_and_leaves_nothing() {
    if !is_v2("a cluster") {
        return;
    }
    let mut cluster = Cluster::start(2);
    let address = cluster.hello();
    let group = group_of_container(&cluster, Path::new(ROOT), "app=hello");
    let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap().trim().to_owned();
    assert_eq!(read("memory.max"), (64 << 20).to_string());
    assert_eq!(read("memory.oom.group"), "1");
    // 10m of a processor are 10 shares, which the runtimes' curve makes this.
    assert_eq!(read("cpu.weight"), "4");
    lacks_memory(&cluster);

    cluster.chaos("kill", "node-2");
    eventually(PATIENCE, "five on the node that is left", || {
        let pods = cluster.json(&["pods", "-l", "app=hello"]);
        let alive =
            pods["items"].as_array().into_iter().flatten().filter(|pod| {
                pod["spec"]["nodeName"] == "node-1" && atoll_e2e::cluster::is_ready(pod)
            });
        let count = alive.count();
        std::thread::sleep(PAUSE);
        if count == 5 { Ok(()) } else { Err(format!("{count}\n{}", cluster.logs())) }
    });
    get(address, "/").unwrap();
    cluster.chaos("heal", "node-2");
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/node-2", "--timeout=120s"]).ok();
    cluster.stop();
    let id = id_of(&cluster);
    assert_eq!(groups_named(Path::new(ROOT), &id), Vec::<PathBuf>::new());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&id), "{mounts}");
}

/// A container that takes more than it may is ended by the kernel, and its status says so.
fn lacks_memory(cluster: &Cluster) {
    cluster.kubectl_with(&["apply", "-f", "-"], HUNGRY).ok();
    let failed = "--for=jsonpath={.status.phase}=Failed";
    let waited = cluster.kubectl(&["wait", "pod/hungry", failed, "--timeout=60s"]);
    if waited.code != 0 {
        let shown = cluster.kubectl(&["describe", "pod", "hungry"]).stdout;
        panic!("{}{shown}\n{}", waited.stderr, cluster.logs());
    }
    let pod = cluster.json(&["pod", "hungry"]);
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["reason"], "OOMKilled", "{ended}");
    assert_eq!(ended["exitCode"], 137, "{ended}");
    cluster.kubectl(&["delete", "pod", "hungry", "--wait=false"]).ok();
}

/// As in a container of Docker: the root of the hierarchy is a group that has processes.
#[test]
fn a_cluster_runs_in_a_cgroup_namespace_and_gives_its_root_back() {
    if !is_v2("a cgroup namespace") {
        return;
    }
    let outside = Path::new(ROOT).join(format!("box-{}", std::process::id()));
    std::fs::create_dir(&outside).unwrap();
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec unshare --cgroup --mount sh -c \
         'umount {ROOT} && mount -t cgroup2 cgroup2 {ROOT} && exec \"$@\"' sh \"$@\"",
        outside.display()
    );
    let mut cluster = Cluster::start_under(&["sh", "-c", &script, "sh"], 1);
    lacks_memory(&cluster);
    assert_eq!(std::fs::read_to_string(outside.join("cgroup.procs")).unwrap(), "");
    cluster.stop();
    let left = std::fs::read_dir(&outside).unwrap().flatten();
    let left: Vec<_> = left.filter(|e| e.path().is_dir()).map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", cluster.logs());
    std::fs::remove_dir(&outside).unwrap();
}

/// Where a hierarchy has the container of a pod with this label.
fn group_of_container(cluster: &Cluster, root: &Path, label: &str) -> PathBuf {
    let pods = cluster.json(&["pods", "-l", label]);
    let pod: &Value = &pods["items"][0];
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let found = groups_named(root, uid);
    assert_eq!(found.len(), 1, "{found:?}");
    let inside = std::fs::read_dir(&found[0]).unwrap().flatten().map(|entry| entry.path());
    let groups: Vec<PathBuf> = inside.filter(|path| path.is_dir()).collect();
    assert_eq!(groups.len(), 1, "{groups:?}");
    groups[0].clone()
}

fn groups_named(root: &Path, part: &str) -> Vec<PathBuf> {
    let mut find = Command::new("find");
    find.arg(root).args(["-type", "d", "-name", &format!("*{part}*")]);
    run(find, "").stdout.lines().map(PathBuf::from).collect()
}

fn id_of(cluster: &Cluster) -> String {
    let text = std::fs::read_to_string(cluster.dir.join("cluster.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    record["id"].as_str().unwrap().to_owned()
}
