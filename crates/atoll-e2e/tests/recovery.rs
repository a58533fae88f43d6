//! Two of three servers are lost for good; the folder of the third becomes a cluster again.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster, Output,
    cluster::{binary, run},
    eventually, is_root,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const READY: Duration = Duration::from_secs(60);

fn restore(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("restore").arg("--from-folder").arg(folder).args(arguments);
    run(command, "")
}

fn members(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.atoll(&["member", "list", "-o", "json"]).ok()).unwrap()
}

fn uid(cluster: &Cluster, node: &str) -> String {
    cluster.json(&["node", node])["metadata"]["uid"].as_str().unwrap().to_owned()
}

#[test]
fn a_cluster_comes_back_from_the_folder_of_one_of_three_servers() {
    if !is_root("recovery") {
        return;
    }
    let mut cluster = Cluster::start_servers(3, 3);
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).ok();
    let account = cluster.kubectl(&["create", "token", "default"]).ok();
    let node = uid(&cluster, "node-2");
    let certificate = fs::read(cluster.dir.join("node-2/agent/client.crt")).unwrap();
    let seen = cluster.json(&["configmap", "kept"])["metadata"]["resourceVersion"].clone();
    let old = members(&cluster);
    running_servers_keep_their_stores(&cluster);

    all_are_killed(&mut cluster);
    let survivor = the_best_of_two(&cluster);
    for name in ["server", "server-2", "server-3"] {
        let folder = cluster.dir.join(name);
        if folder != survivor {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    said_and_asked_first(&survivor);
    let told: Value =
        serde_json::from_str(&restore(&survivor, &["--yes", "-o", "json"]).ok()).unwrap();
    let former = PathBuf::from(told["formerStore"].as_str().unwrap());
    assert!(former.starts_with(&survivor) && former.join("member.json").exists());

    cluster.launch();
    let rest = cluster.json(&["configmap", "kept"]);
    assert_eq!(rest["data"]["a"], "1");
    all_are_members_again(&cluster, &old);
    for name in ["node-1", "node-2", "node-3"] {
        cluster.node_ready(name, READY);
    }
    // The node is who it was, by the certificate that it had.
    assert_eq!(uid(&cluster, "node-2"), node);
    assert!(fs::read(cluster.dir.join("node-2/agent/client.crt")).unwrap() == certificate);
    let mut review = Command::new("kubectl");
    review.arg(format!("--server=https://127.0.0.1:{}", cluster.port));
    review.args(["--insecure-skip-tls-verify", "--kubeconfig=/dev/null", "auth", "whoami"]);
    review.args(["-o", "name", "--token", account.trim()]);
    run(review, "").ok();
    // Who has seen the old cluster reads everything anew.
    let seen = seen.as_str().unwrap();
    let watch = format!("/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion={seen}");
    let told = cluster.kubectl(&["get", "--raw", &watch]);
    let told = format!("{}{}", told.stdout, told.stderr);
    assert!(told.contains("\"code\":410"), "{told}");
}

fn running_servers_keep_their_stores(cluster: &Cluster) {
    let refused = restore(&cluster.dir.join("server-2"), &["--dry-run"]).fails();
    assert!(refused.contains("stop that server first"), "{refused}");
    let refused = restore(&cluster.dir, &["--dry-run"]).fails();
    assert!(refused.contains("is no server's data folder: name "), "{refused}");
}

/// kill -9 of every server and of the supervisor at once.
fn all_are_killed(cluster: &mut Cluster) {
    let servers = cluster.pids("server --data-dir");
    assert_eq!(servers.len(), 3);
    cluster.kill();
    for pid in servers {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
    }
    // A process that was killed holds its folder until the kernel has cleared it up.
    for name in ["server", "server-2", "server-3"] {
        eventually(Duration::from_secs(10), "the servers end", || {
            let looked = restore(&cluster.dir.join(name), &["--dry-run"]);
            if looked.code == 0 { Ok(()) } else { Err(looked.stderr) }
        });
    }
}

/// As `--dry-run` shows it; neither is changed by that.
fn the_best_of_two(cluster: &Cluster) -> PathBuf {
    let look = |name: &str| {
        let folder = cluster.dir.join(name);
        let told = restore(&folder, &["--dry-run", "-o", "json"]).ok();
        assert_eq!(restore(&folder, &["--dry-run", "-o", "json"]).ok(), told);
        let told: Value = serde_json::from_str(&told).unwrap();
        let mut servers: Vec<_> = told["servers"].as_array().unwrap().clone();
        servers.sort_by_key(ToString::to_string);
        assert_eq!(servers, ["node-1", "node-2", "node-3"]);
        ((told["term"].as_u64().unwrap(), told["entry"].as_u64().unwrap()), folder)
    };
    let (second, third) = (look("server-2"), look("server-3"));
    assert!(second.0.0 > 0 && second.0.1 > 10);
    second.max(third).1
}

fn said_and_asked_first(survivor: &Path) {
    let asked = restore(survivor, &[]);
    for expected in [
        "its log ends with term ",
        "  - what the other servers had received and this one had not is lost",
        "must never start again with their folders",
        "  - the store that is there now is kept in ",
    ] {
        assert!(asked.stdout.contains(expected), "{expected}: {}", asked.stdout);
    }
    assert!(asked.fails().contains("--yes"));
}

fn all_are_members_again(cluster: &Cluster, old: &Value) {
    let now = eventually(READY, "three servers with a vote", || {
        let now = members(cluster);
        let members = now["members"].as_array().unwrap();
        let voters = members.iter().filter(|one| one["isLearner"] == false).count();
        if voters == 3 { Ok(now.clone()) } else { Err(now.to_string()) }
    });
    let ids = |all: &Value| -> Vec<String> {
        let members = all["members"].as_array().unwrap().iter();
        members.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    // No id comes back.
    assert!(ids(&now).iter().all(|id| !ids(old).contains(id)), "{now}");
}
