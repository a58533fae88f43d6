//! Pods of one container, what becomes of them, and `atoll image` on a cluster.

use std::{fs, path::Path, process::Command, time::Duration};

use atoll_e2e::{Cluster, Output, cluster::run, eventually};
use serde_json::{Value, json};

pub(crate) const SOON: Duration = Duration::from_secs(60);
pub(crate) const STAY: &str = "sleep 1000 & wait";

/// A pod of one container, on one node.
pub(crate) struct Wish<'a> {
    pub(crate) name: &'a str,
    pub(crate) node: u32,
    pub(crate) image: String,
    pub(crate) policy: &'a str,
    pub(crate) command: &'a [&'a str],
    pub(crate) secret: Option<&'a str>,
}

impl Default for Wish<'_> {
    fn default() -> Self {
        Self {
            name: "",
            node: 1,
            image: String::new(),
            policy: "IfNotPresent",
            command: &["sh", "-c", STAY],
            secret: None,
        }
    }
}

pub(crate) fn create(cluster: &Cluster, wish: Wish<'_>) {
    let secrets: Vec<Value> = wish.secret.iter().map(|name| json!({ "name": name })).collect();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": wish.name },
        "spec": {
            "nodeName": format!("node-{}", wish.node),
            "terminationGracePeriodSeconds": 1,
            "imagePullSecrets": secrets,
            "containers": [{ "name": "c", "image": wish.image, "command": wish.command,
                "imagePullPolicy": wish.policy }],
        },
    });
    cluster.kubectl_with(&["create", "-f", "-"], &pod.to_string()).ok();
}

pub(crate) fn events(cluster: &Cluster, pod: &str) -> Vec<String> {
    let about = format!("involvedObject.name={pod}");
    let list = cluster.json(&["events", "--field-selector", &about]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|e| format!("{} {} {}", text(&e["type"]), text(&e["reason"]), text(&e["message"])))
        .collect()
}

#[track_caller]
pub(crate) fn becomes(cluster: &Cluster, pod: &str, check: impl Fn(&Value) -> bool) -> Value {
    eventually(SOON, &format!("pod {pod}"), || {
        let status = cluster.json(&["pod", pod])["status"]["containerStatuses"][0].clone();
        if check(&status) {
            return Ok(status);
        }
        Err(format!("{status:#}\n{}\n{}", events(cluster, pod).join("\n"), cluster.logs()))
    })
}

#[track_caller]
pub(crate) fn runs(cluster: &Cluster, pod: &str) -> Value {
    becomes(cluster, pod, |status| !status["state"]["running"].is_null())
}

/// Waits for the waiting reason; returns the message.
#[track_caller]
pub(crate) fn waits(cluster: &Cluster, pod: &str, reason: &str) -> String {
    let status = becomes(cluster, pod, |status| status["state"]["waiting"]["reason"] == reason);
    status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
}

#[track_caller]
pub(crate) fn has_event(cluster: &Cluster, pod: &str, wanted: &str) {
    eventually(Duration::from_secs(10), &format!("event of {pod}: {wanted}"), || {
        let all = events(cluster, pod);
        if all.iter().any(|event| event.starts_with(wanted)) { Ok(()) } else { Err(all.join("\n")) }
    });
}

#[track_caller]
pub(crate) fn why(cluster: &Cluster, target: &str, parts: &[&str]) {
    let said = cluster.atoll(&["why", target]).ok();
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// `atoll image` on the cluster's folder.
pub(crate) fn image(cluster: &Cluster, arguments: &[&str]) -> Output {
    image_with(cluster, arguments, Path::new("/dev/null"))
}

pub(crate) fn image_with(cluster: &Cluster, arguments: &[&str], stdin: &Path) -> Output {
    let mut command = Command::new("sh");
    let program = atoll_e2e::cluster::binary();
    command.args(["-c", "exec \"$0\" \"$@\" < \"$STDIN\""]).arg(program).arg("image");
    command.args(arguments).arg("--data-dir").arg(&cluster.dir).env("STDIN", stdin);
    run(command, "")
}

pub(crate) fn names(cluster: &Cluster, node: u32) -> Vec<String> {
    let node = format!("node-{node}");
    let list = image(cluster, &["list", "-o", "json", "--node", &node]).ok();
    let list: Value = serde_json::from_str(&list).unwrap();
    let items = list["items"].as_array().unwrap().clone();
    let tags = items.iter().flat_map(|item| item["image"]["tags"].as_array().unwrap().clone());
    tags.map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Neither parts of downloads nor of unpacked layers.
pub(crate) fn left_over(cluster: &Cluster, node: u32) -> Vec<String> {
    let images = cluster.dir.join(format!("node-{node}/images"));
    let mut left = Vec::new();
    for folder in ["tmp", "blobs/sha256"] {
        for entry in fs::read_dir(images.join(folder)).into_iter().flatten().flatten() {
            left.push(entry.path().display().to_string());
        }
    }
    left
}

#[track_caller]
pub(crate) fn nothing_left(cluster: &Cluster, nodes: u32) {
    // A pull may be on its way when one looks.
    for node in 1..=nodes {
        eventually(Duration::from_secs(20), "nothing is left of failed pulls", || {
            let left = left_over(cluster, node);
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
    }
}
