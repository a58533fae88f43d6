//! ReplicationControllers: scaled, and what they say when pods are refused.

use super::*;

pub(super) fn replication_controller(cluster: &Cluster) {
    let object = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": { "name": "rc" },
        "spec": { "replicas": 2, "template": template("rc", "1") },
    });
    apply(cluster, &object);
    cluster.pods_ready("app=rc", 2, SOON);
    let stored = cluster.json(&["rc", "rc"]);
    assert_eq!(stored["spec"]["selector"], json!({ "app": "rc" }));
    cluster.kubectl(&["scale", "rc/rc", "--replicas=3"]).ok();
    cluster.pods_ready("app=rc", 3, SOON);
    eventually(SOON, "its columns", || {
        let shown = cluster.kubectl(&["get", "rc", "rc", "-o", "wide"]).ok();
        let line = shown.lines().nth(1).unwrap_or_default();
        let cells: Vec<&str> = line.split_whitespace().collect();
        let wanted = ["rc", "3", "3", "3", "c", "atoll.local/hello", "app=rc"];
        let found: Vec<&str> = cells[..4].iter().chain(&cells[5..]).copied().collect();
        if found == wanted { Ok(()) } else { Err(shown.clone()) }
    });
    // What the API refuses is told in a condition.
    let patch = r#"{"spec":{"replicas":4,"template":{"spec":{"serviceAccountName":"nobody"}}}}"#;
    cluster.kubectl(&["patch", "rc/rc", "-p", patch]).ok();
    eventually(SOON, "the condition ReplicaFailure", || {
        let stored = cluster.json(&["rc", "rc"]);
        let condition = &stored["status"]["conditions"][0];
        let message = condition["message"].as_str().unwrap_or_default();
        let told = condition["type"] == "ReplicaFailure"
            && condition["reason"] == "FailedCreate"
            && message.contains("serviceaccount \"nobody\" not found");
        if told { Ok(()) } else { Err(stored["status"].to_string()) }
    });
    cluster.kubectl(&["delete", "rc/rc", "--timeout=60s"]).ok();
    cluster.pods_ready("app=rc", 0, SOON);
}
