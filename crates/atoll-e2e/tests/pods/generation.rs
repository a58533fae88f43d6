//! The generation of a pod: what raises it, and that the node tells which one it has seen.

use super::HOUR_GLASS;
use atoll_e2e::{Cluster, cluster::is_ready};
use serde_json::{Value, json};
use std::fmt::Write as _;

const POD: &str = "counted";
/// Of the deadline, one second each.
const UPDATES: i64 = 499;

pub(crate) fn check(cluster: &Cluster) {
    let apply = |documents: &str| {
        let arguments = ["apply", "--server-side", "--validate=false", "-f", "-"];
        cluster.kubectl_with(&arguments, documents).ok();
    };
    apply(&pod(5000).to_string());
    let first = cluster.pod_becomes(POD, HOUR_GLASS, |pod| is_ready(pod).then(|| pod.clone()));
    assert_eq!(first["metadata"]["generation"], 1, "whatever it was made with");
    let mut all = String::new();
    for less in 1..=UPDATES {
        writeln!(all, "---\n{}", pod(5000 - less)).unwrap();
    }
    apply(&all);
    seen(cluster, UPDATES + 1);
    each_change(cluster, UPDATES + 1);
}

fn pod(deadline: i64) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": POD, "generation": 100 },
        "spec": { "activeDeadlineSeconds": deadline, "containers": [{ "name": "c",
            "image": "test.local/busybox:1", "command": ["sleep", "100000"] }],
            "initContainers": [{ "name": "i", "image": "test.local/busybox:1",
                "command": ["true"] }] } })
}

fn seen(cluster: &Cluster, generation: i64) {
    cluster.pod_becomes(POD, HOUR_GLASS, |pod| {
        assert_eq!(pod["metadata"]["generation"], generation);
        (pod["status"]["observedGeneration"] == generation).then_some(())
    });
}

fn each_change(cluster: &Cluster, mut generation: i64) {
    let image = |list: &str, name: &str| json!({ "spec": { list: [{ "name": name, "image": "test.local/user:1" }] } });
    let patches = [
        (json!({ "spec": { "activeDeadlineSeconds": 4000 } }), 1),
        (
            json!([{ "op": "add", "path": "/spec/tolerations/-",
            "value": { "key": "a", "operator": "Exists" } }]),
            1,
        ),
        (image("containers", "c"), 1),
        (image("initContainers", "i"), 1),
        (json!({ "metadata": { "annotations": { "a": "b" } } }), 0),
        (json!({ "metadata": { "generation": 1 } }), 0),
        (json!({}), 0),
    ];
    for (patch, raised) in patches {
        let kind = if patch.is_array() { "--type=json" } else { "--type=strategic" };
        cluster.kubectl(&["patch", "pod", POD, kind, "-p", &patch.to_string()]).ok();
        generation += raised;
        seen(cluster, generation);
    }
    cluster.kubectl(&["delete", "pod", POD, "--grace-period=60", "--wait=false"]).ok();
    let going = cluster.json(&["pod", POD]);
    assert_eq!(going["metadata"]["generation"], generation + 1, "its end is a change");
    cluster.kubectl(&["delete", "pod", POD, "--now"]).ok();
}
