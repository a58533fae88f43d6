//! Containers outlive their agent, and come back after their node.

use super::{HOUR_GLASS, logs::agents};
use atoll_e2e::{Cluster, cluster::is_ready, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::Duration;

/// A killed node has to be missed first, and then to start again.
const REBOOT: Duration = Duration::from_secs(60);

pub(crate) fn check(cluster: &Cluster) {
    cluster.pod_becomes("survivor", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    cluster.pod_becomes("job", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    let before = container(cluster, "stays");
    agent_is_killed(cluster);
    let after = container(cluster, "stays");
    assert_eq!(
        (&after["restartCount"], &after["containerID"]),
        (&0.into(), &before["containerID"])
    );
    shim_is_killed(cluster);
    node_reboots(cluster, &container(cluster, "stays"));
}

/// The cluster is ended and started again, which for its pods is a reboot: who may not be run
/// twice has failed, the others run again, and what they had on disk and said is there.
pub(crate) fn comes_back(cluster: &mut Cluster) {
    for pod in ["worker", "server"] {
        cluster.pod_becomes(pod, HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    }
    let finished = |pod: &Value| (pod["status"]["phase"] == "Succeeded").then_some(());
    cluster.pod_becomes("spoken", HOUR_GLASS, finished);
    let before = cluster.json(&["pod", "server"])["status"]["containerStatuses"][0].clone();
    assert_eq!(before["restartCount"], 0);
    cluster.stop();
    cluster.launch();
    let worker = cluster.pod_becomes("worker", REBOOT, |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod["status"]["containerStatuses"][0].clone())
    });
    let ended = &worker["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"], &worker["restartCount"]),
        (&137.into(), &"ContainerStatusUnknown".into(), &0.into()),
        "that it ended when told to says nothing of its work"
    );
    let server = cluster.pod_becomes("server", REBOOT, |pod| {
        let container = &pod["status"]["containerStatuses"][0];
        (container["restartCount"] == 1 && is_ready(pod)).then(|| container.clone())
    });
    let last = &server["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["containerID"]), (&137.into(), &before["containerID"]));
    for (arguments, said) in [
        (["logs", "server", "--previous"].as_slice(), "1\n"),
        (&["logs", "server"], "2\n"),
        (&["logs", "spoken"], "last words\n"),
    ] {
        eventually(REBOOT, "what was said is there", || {
            let found = cluster.kubectl(arguments);
            if found.stdout == said { Ok(()) } else { Err(format!("{arguments:?}: {found:?}")) }
        });
    }
    let spoken = cluster.json(&["pod", "spoken"]);
    assert_eq!(spoken["status"]["phase"], "Succeeded");
}

/// A container whose output goes nowhere is made anew.
fn shim_is_killed(cluster: &Cluster) {
    let before = container(cluster, "stays");
    let id = before["containerID"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let shim = cluster.pids("shim").into_iter().find(|pid| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("/stays/") && line.contains(&cluster.dir.display().to_string())
    });
    let shim = shim.unwrap_or_else(|| panic!("no shim of {id}"));
    kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    eventually(REBOOT, "it runs again", || {
        let now = container(cluster, "stays");
        let again = now["restartCount"] == 1 && !now["state"]["running"].is_null();
        if again { Ok(()) } else { Err(now.to_string()) }
    });
    cluster
        .event("survivor", "Killing: Container stays cannot be reached any more: its shim is gone");
    assert_eq!(
        cluster.kubectl(&["exec", "survivor", "-c", "stays", "--", "echo", "yes"]).ok(),
        "yes\n"
    );
}

fn container(cluster: &Cluster, name: &str) -> Value {
    let pod = cluster.json(&["pod", "survivor"]);
    let all = pod["status"]["containerStatuses"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap().clone()
}

fn agent_is_killed(cluster: &Cluster) {
    for (pod, name) in [("survivor", "ends"), ("job", "ends")] {
        cluster.kubectl(&["exec", pod, "-c", name, "--", "touch", "/tmp/end"]).ok();
    }
    for (pid, _) in agents(cluster) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    let job = cluster.pod_becomes("job", REBOOT, |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod["status"]["containerStatuses"][0].clone())
    });
    assert_eq!(job["state"]["terminated"]["exitCode"], 9);
    assert_eq!(job["state"]["terminated"]["reason"], "Error");
    assert_eq!(job["restartCount"], 0);
    let ends = eventually(REBOOT, "the other one was restarted once", || {
        let ends = container(cluster, "ends");
        if ends["restartCount"] == 1 && !ends["state"]["running"].is_null() {
            Ok(ends)
        } else {
            Err(ends.to_string())
        }
    });
    assert_eq!(ends["lastState"]["terminated"]["exitCode"], 9);
}

fn node_reboots(cluster: &Cluster, before: &Value) {
    cluster.chaos("kill", "node-2");
    eventually(REBOOT, "the node is missed", || {
        let node = cluster.json(&["node", "node-2"]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let ready = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
        if ready["status"] == "True" { Err(ready.to_string()) } else { Ok(()) }
    });
    cluster.chaos("heal", "node-2");
    cluster.pod_becomes("survivor", REBOOT, |pod| {
        let again = pod["status"]["containerStatuses"]
            .as_array()?
            .iter()
            .any(|one| one["name"] == "stays" && one["containerID"] != before["containerID"]);
        (again && is_ready(pod)).then_some(())
    });
    let stays = container(cluster, "stays");
    assert_eq!(stays["restartCount"], 2, "{stays:#}");
    let last = &stays["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["containerID"]), (&137.into(), &before["containerID"]));
}
