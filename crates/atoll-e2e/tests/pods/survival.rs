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
    node_reboots(cluster, &after);
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
    assert_eq!(stays["restartCount"], 1, "{stays:#}");
    let last = &stays["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["containerID"]), (&137.into(), &before["containerID"]));
}
