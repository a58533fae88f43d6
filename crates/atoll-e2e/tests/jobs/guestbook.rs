//! An application of three kinds of pods that know each other by the variables of their Services,
//! as upstream's Guestbook can; and what kubectl does to a single pod.

use super::{IMAGE, SOON, apply};
use atoll_e2e::{Cluster, eventually, http};
use serde_json::{Value, json};
use std::net::SocketAddr;

const TIERS: [(&str, u32); 3] = [("leader", 1), ("follower", 2), ("frontend", 3)];

fn tier(name: &str, replicas: u32) -> Value {
    let labels = json!({ "app": "guestbook", "tier": name });
    let serve = "mkdir -p /tmp/www/cgi-bin && touch /tmp/entries && cp /scripts/* /tmp/www/cgi-bin \
                 && chmod +x /tmp/www/cgi-bin/* && exec httpd -f -p 80 -h /tmp/www";
    let container = json!({ "name": "c", "image": IMAGE, "command": ["sh", "-c", serve],
        "volumeMounts": [{ "name": "scripts", "mountPath": "/scripts" }],
        "readinessProbe": { "tcpSocket": { "port": 80 }, "periodSeconds": 1 } });
    let deployment = json!({ "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "labels": labels },
        "spec": { "replicas": replicas, "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": {
                "terminationGracePeriodSeconds": 1, "containers": [container],
                "volumes": [{ "name": "scripts", "configMap": { "name": "guestbook" } }] } } } });
    let service = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "labels": labels },
        "spec": { "selector": labels, "ports": [{ "port": 80 }] } });
    json!({ "apiVersion": "v1", "kind": "List", "items": [service, deployment] })
}

pub(super) fn guestbook(cluster: &Cluster) {
    cluster.apply(include_str!("guestbook.yaml"));
    for (name, replicas) in TIERS {
        let manifest = tier(name, replicas).to_string();
        cluster.kubectl_with(&["create", "-f", "-"], &manifest).ok();
    }
    for (name, replicas) in TIERS {
        cluster.pods_ready(&format!("tier={name}"), replicas as usize, SOON);
    }
    let frontend = SocketAddr::new(cluster.service_ip("frontend"), 80);
    let ask = |query: &str| http::get(frontend, &format!("/cgi-bin/frontend?{query}"));
    eventually(SOON, "an entry is written", || match ask("set=first") {
        Ok(said) if said == "Updated\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually(SOON, "and read", || match ask("get") {
        Ok(said) if said.starts_with("first\n") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let all = ["deployments,services,configmaps", "-l", "app=guestbook"];
    for (name, replicas) in TIERS {
        let manifest = tier(name, replicas).to_string();
        let stop = ["delete", "--grace-period=0", "--force", "-f", "-"];
        cluster.kubectl_with(&stop, &manifest).ok();
    }
    let left = cluster.kubectl(&[&["get", "-o", "name"], &all[..]].concat()).ok();
    assert_eq!(left, "");
    cluster.pods_ready("app=guestbook", 0, SOON);
    cluster.kubectl(&["delete", "configmap", "guestbook"]).ok();
}

/// Run once, changed in a trial only, and its image replaced.
pub(super) fn a_pod_of_kubectl(cluster: &Cluster) {
    let image = format!("--image={IMAGE}");
    let run = ["run", "single", &image, "--restart=Never", "--labels=run=single"];
    cluster.kubectl(&[&run[..], &["--", "sleep", "1000"]].concat()).ok();
    let pod = cluster.pods_ready("run=single", 1, SOON).remove(0);
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    cluster.kubectl(&["delete", "pod", "single", "--now"]).ok();

    apply(
        cluster,
        &json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "single", "labels": { "run": "single" } },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [
            { "name": "single", "image": IMAGE, "command": ["sleep", "1000"] }] } }),
    );
    let pod = cluster.pods_ready("run=single", 1, SOON).remove(0);
    let image = |pod: &Value| pod["spec"]["containers"][0]["image"].clone();
    let other = r#"{"spec":{"containers":[{"name":"single","image":"atoll.local/hello"}]}}"#;
    let tried = ["patch", "pod", "single", "-p", other, "--dry-run=server", "-o", "json"];
    let tried: Value = serde_json::from_str(&cluster.kubectl(&tried).ok()).unwrap();
    assert_eq!(image(&tried), "atoll.local/hello");
    let now = cluster.json(&["pod", "single"]);
    assert_eq!((image(&now), &now["metadata"]["generation"]), (json!(IMAGE), &json!(1)));

    let mut changed = pod;
    changed["spec"]["containers"][0]["image"] = json!("test.local/busybox:2");
    atoll_e2e::image::import_busybox(cluster, "test.local/busybox:2", json!({ "Cmd": ["sh"] }));
    changed["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    cluster.kubectl_with(&["replace", "-f", "-"], &changed.to_string()).ok();
    cluster.pod_becomes("single", SOON, |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let runs = status["restartCount"] == 1 && status["ready"] == true;
        (runs && status["image"].to_string().contains("busybox:2")).then_some(())
    });
    cluster.kubectl(&["delete", "pod", "single", "--now"]).ok();
}
