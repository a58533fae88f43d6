//! StatefulSets whose pods are not well: who waits for whom, and who is made anew.

use super::*;
use atoll_e2e::cluster::is_ready;

pub(super) const IMAGE: &str = "test.local/busybox:1";
const NAMES: [&str; 3] = ["frail-0", "frail-1", "frail-2"];

/// One whose pods are ready as long as a file is there.
fn frail(replicas: u32) -> Value {
    let mut object =
        set("StatefulSet", "frail", "1", &json!({ "replicas": replicas, "serviceName": "db" }));
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["image"] = json!(IMAGE);
    container["command"] = json!(["sh", "-c", "touch /tmp/well; sleep 1000"]);
    container["readinessProbe"] = json!({ "exec": { "command": ["test", "-f", "/tmp/well"] },
        "periodSeconds": 1, "failureThreshold": 1 });
    object
}

fn health(cluster: &Cluster, pods: &[&str], well: bool) {
    for pod in pods {
        let command = if well { "touch" } else { "rm" };
        cluster.kubectl(&["exec", pod, "--", command, "/tmp/well"]).ok();
    }
    for pod in pods {
        cluster.pod_becomes(pod, SOON, |pod| (is_ready(pod) == well).then_some(()));
    }
}

/// The pods there are, once the controller has seen the latest wish.
fn after(cluster: &Cluster, replicas: u32) -> Vec<String> {
    apply(cluster, &frail(replicas));
    eventually(SOON, "the wish is seen", || {
        let set = cluster.json(&["statefulset", "frail"]);
        let seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
        if seen { Ok(()) } else { Err(set["status"].to_string()) }
    });
    pods(cluster, "frail").into_keys().collect()
}

pub(super) fn the_unhealthy_hold_up(cluster: &Cluster) {
    apply(cluster, &frail(1));
    rolled_out(cluster, "statefulset/frail");
    health(cluster, &NAMES[..1], false);
    assert_eq!(after(cluster, 3), NAMES[..1], "none beside one that is not well");
    health(cluster, &NAMES[..1], true);
    rolled_out(cluster, "statefulset/frail");
    assert_eq!(names(&pods(cluster, "frail")), NAMES);
    health(cluster, &NAMES, false);
    assert_eq!(after(cluster, 0), NAMES, "none goes beside one that is not well");
    let standing = pods(cluster, "frail");
    assert!(standing.values().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()));
    health(cluster, &NAMES[..1], true);
    cluster.kubectl(&["exec", NAMES[1], "--", "touch", "/tmp/well"]).ok();
    // The only one that is not well may go, and the others follow from the highest down.
    eventually(SOON, "all go, each after those above it", || {
        let pods = pods(cluster, "frail");
        let going = |name: &str| {
            pods.get(name).is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string())
        };
        for pair in NAMES.windows(2) {
            assert!(!going(pair[0]) || !pods.contains_key(pair[1]), "{:?}", names(&pods));
        }
        if pods.is_empty() { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
    cluster.kubectl(&["delete", "statefulset/frail", "--timeout=60s"]).ok();
}

/// Its node refuses the pod as long as another holds the port: it is made again and again, and
/// comes up once the other has gone.
pub(super) fn a_port_that_is_taken(cluster: &Cluster) {
    let ports = json!([{ "containerPort": 8080, "hostPort": 21_017 }]);
    let mut blocker = template("blocker", "1");
    (blocker["apiVersion"], blocker["kind"]) = (json!("v1"), json!("Pod"));
    blocker["metadata"]["name"] = json!("blocker");
    let mut object =
        set("StatefulSet", "evicted", "1", &json!({ "replicas": 1, "serviceName": "db" }));
    for pod in [&mut blocker["spec"], &mut object["spec"]["template"]["spec"]] {
        pod["nodeName"] = json!("node-2");
        pod["containers"][0]["ports"] = ports.clone();
    }
    apply(cluster, &blocker);
    cluster.pods_ready("app=blocker", 1, SOON);
    apply(cluster, &object);
    let mut seen = std::collections::BTreeSet::new();
    eventually(SOON, "it is refused and made again", || {
        if let Some(pod) = pods(cluster, "evicted").get("evicted-0") {
            assert!(!is_ready(pod), "two pods have one port");
            seen.insert(pod["metadata"]["uid"].to_string());
        }
        if seen.len() > 1 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    cluster.kubectl(&["delete", "pod", "blocker"]).ok();
    rolled_out(cluster, "statefulset/evicted");
    cluster.kubectl(&["delete", "statefulset/evicted", "--timeout=60s"]).ok();
}
