//! Processes killed under load, a supervisor killed, and what is left when a cluster ends.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster,
    cluster::{binary, run, workspace},
    eventually,
    http::{Load, get},
    is_root,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    process::Command,
    thread::sleep,
    time::Duration,
};

#[test]
fn nothing_is_lost_when_processes_are_killed() {
    if !is_root("faults") {
        return;
    }
    let mut cluster = Cluster::start(3);
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    cluster.pods_ready("app=hello", 5, Duration::from_secs(60));
    let service = cluster.json(&["service", "hello"]);
    let address: IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let address = SocketAddr::new(address, 80);
    eventually(Duration::from_secs(10), "the service answers", || get(address, "/"));
    let before = containers(&cluster);

    let load = Load::start(address, "/", 100, 4);
    for role in ["server --data-dir", "agent --join", "dns --listen"] {
        let killed = kill(&cluster, role);
        assert!(killed > 0, "no process is an `atoll {role}`");
        sleep(Duration::from_secs(3));
    }
    cluster.kill();
    sleep(Duration::from_secs(2));
    second_on_the_same_folder(&mut cluster);
    let shots = load.stop();
    let failed: Vec<_> = shots.iter().filter(|shot| shot.result.is_err()).collect();
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), shots.len(), failed.first());

    eventually(Duration::from_secs(20), "the containers are the same", || {
        let now = containers(&cluster);
        if now == before { Ok(()) } else { Err(format!("{now:?} instead of {before:?}")) }
    });
    cluster.stop();
    leaves_nothing(&cluster);
}

/// Starts the cluster again, and refuses another one on its folder.
fn second_on_the_same_folder(cluster: &mut Cluster) {
    cluster.launch();
    let mut command = Command::new(binary());
    command.arg("dev").arg("--data-dir").arg(&cluster.dir).args(["--port", "0"]);
    let refused = run(command, "").fails();
    assert!(refused.contains("in use by another `atoll dev`"), "{refused}");
    assert!(refused.contains(&cluster.pid().to_string()), "{refused}");
}

/// Container ids and restart counts of all pods.
fn containers(cluster: &Cluster) -> BTreeSet<(String, i64)> {
    let pods = cluster.json(&["pods"]);
    let statuses = pods["items"].as_array().into_iter().flatten();
    statuses
        .flat_map(|pod| pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default())
        .map(|status| {
            let id = status["containerID"].as_str().unwrap_or_default().to_owned();
            (id, status["restartCount"].as_i64().unwrap_or(-1))
        })
        .collect()
}

/// Kills the cluster's processes of one role with -9; returns how many.
fn kill(cluster: &Cluster, role: &str) -> usize {
    let dir = cluster.dir.canonicalize().unwrap().display().to_string();
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let text = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&text).replace('\0', " ");
        if words.starts_with(&dir) && words.contains(&format!("atoll {role}")) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            killed += 1;
        }
    }
    killed
}

fn leaves_nothing(cluster: &Cluster) {
    let text = std::fs::read_to_string(cluster.dir.join("cluster.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let id = record["id"].as_str().unwrap();
    let mut links = Command::new("ip");
    links.args(["-br", "link"]);
    let shown = [run(links, "").ok(), std::fs::read_to_string("/proc/mounts").unwrap()].concat();
    let left: Vec<&str> = shown.lines().filter(|line| line.contains(id)).collect();
    assert!(left.is_empty(), "{left:?}");
    let folder = std::path::Path::new("/run/atoll").join(id);
    assert!(!folder.exists(), "{} is left", folder.display());
    let mut cgroups = Command::new("find");
    cgroups.args(["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{id}*")]);
    assert_eq!(run(cgroups, "").stdout, "");
}
