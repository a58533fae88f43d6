//! Volumes of kind `image`: what a container finds in one, and what it waits for without it.

use std::{fs, path::Path};

use atoll_e2e::{Cluster, eventually};
use serde_json::{Value, json};

use super::archive::{Image, Layer, Packing, busybox_config};
use super::pods::{SOON, has_event, runs, waits, why};
use super::registry::Registry;

fn pod(cluster: &Cluster, name: &str, registry: u16, volume: &str, mounts: Value) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": "node-1", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": format!("localhost:{registry}/v:1"),
                "command": ["sh", "-c", super::pods::STAY], "volumeMounts": mounts}],
            "volumes": [{"name": "v",
                "image": {"reference": volume, "pullPolicy": "Always"}}],
        },
    });
    cluster.kubectl_with(&["create", "-f", "-"], &pod.to_string()).ok();
}

pub(crate) fn create(cluster: &Cluster, registry: &Registry, folder: &Path) {
    let layers = [
        Layer::new().busybox().file("data.json", 0o644, b"old").bytes(),
        Layer::new().file("data.json", 0o644, b"new").file("etc/word", 0o644, b"word").bytes(),
    ];
    let image = Image::new(&layers, Packing::Gzip, busybox_config());
    registry.push(&image.write_oci(&folder.join("v.tar"), Some("v:1")), "v:1", None);
    let mounts = json!([{"name": "v", "mountPath": "/volume"},
        {"name": "v", "mountPath": "/part", "subPath": "etc"},
        {"name": "v", "mountPath": "/word", "subPath": "etc/word"}]);
    let port = registry.port;
    pod(cluster, "volume", port, &format!("localhost:{port}/v:1"), mounts);
    let mounts = json!([{"name": "v", "mountPath": "/volume", "subPath": "etc"}]);
    pod(cluster, "no-volume", port, &format!("localhost:{port}/v:late"), mounts.clone());
    let mounts = json!([{"name": "v", "mountPath": "/volume", "subPath": "not/there"}]);
    pod(cluster, "no-path", port, &format!("localhost:{port}/v:1"), mounts);
}

pub(crate) fn check(cluster: &Cluster, registry: &Registry, folder: &Path) {
    let name = format!("localhost:{}/v:1", registry.port);
    runs(cluster, "volume");
    let inside = |script: &str| cluster.kubectl(&["exec", "volume", "--", "sh", "-c", script]);
    let read = "cat /volume/data.json /volume/etc/word /part/word /word";
    assert_eq!(inside(read).ok(), "newwordwordword");
    for path in ["/volume/x", "/volume/data.json", "/part/x", "/word"] {
        let failed = inside(&format!("echo x > {path}")).fails();
        assert!(failed.contains("Read-only file system"), "{failed}");
    }
    let failed = inside("/volume/bin/busybox true").fails();
    assert!(failed.contains("Permission denied"), "no program of it is run: {failed}");
    has_event(cluster, "volume", &format!("Normal Pulling Pulling image \"{name}\""));
    has_event(
        cluster,
        "volume",
        &format!("Normal Pulled Successfully pulled image \"{name}\" in "),
    );

    let message = waits(cluster, "no-path", "CreateContainerConfigError");
    let words = "failed to prepare subPath for volumeMount \"v\" of container \"c\": \
                 \"not/there\": No such file or directory (os error 2)";
    assert_eq!(message, words);

    let late = format!("localhost:{}/v:late", registry.port);
    let message = waits(cluster, "no-volume", "ImagePullBackOff");
    let cause = format!("Back-off pulling image \"{late}\": ErrImagePull: image {late} was not");
    assert!(message.starts_with(&cause), "{message}");
    has_event(cluster, "no-volume", &format!("Warning Failed Failed to pull image \"{late}\": "));
    has_event(cluster, "no-volume", "Warning Failed Error: ErrImagePull");
    has_event(cluster, "no-volume", &format!("Normal BackOff Back-off pulling image \"{late}\""));
    has_event(cluster, "no-volume", "Warning Failed Error: ImagePullBackOff");
    why(
        cluster,
        "pod/no-volume",
        &["container c waits for the image of its volume v", "Check its"],
    );
    registry.push(&folder.join("v.tar"), "v:late", None);
    runs(cluster, "no-volume");
    goes(cluster);
}

/// Nothing is left mounted of a pod that is gone.
fn goes(cluster: &Cluster) {
    let pod = cluster.json(&["pod", "volume"]);
    let dir = cluster.dir.join("node-1/pods").join(pod["metadata"]["uid"].as_str().unwrap());
    assert!(dir.join("image-volumes/v").is_dir());
    cluster.kubectl(&["delete", "pod", "volume", "no-path", "no-volume", "--wait=false"]).ok();
    eventually(SOON, "the pod's folder is gone", || {
        let left = fs::read_dir(&dir).map(|entries| entries.count());
        if left.is_err() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
