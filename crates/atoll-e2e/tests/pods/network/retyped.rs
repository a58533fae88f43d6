//! A Service that is turned from one type into another, and back.

use super::{HOUR_GLASS, answers, client, node_ip};
use atoll_e2e::{Cluster, eventually};
use serde_json::{Value, json};

const NAME: &str = "turning.default.svc.cluster.local";

pub(super) fn check(cluster: &Cluster) {
    alias(cluster, "twice.default.svc.cluster.local");
    turn(cluster, &json!({ "externalName": "named.default.svc.cluster.local" }));
    alias(cluster, "named.default.svc.cluster.local");
    let ports = json!([{ "port": 80, "targetPort": "one" }]);
    let inside = |kind: &str| json!({ "type": kind, "externalName": null, "selector": { "app": "web" }, "ports": ports });
    let outside = json!({ "type": "ExternalName", "clusterIP": null, "clusterIPs": null,
        "externalName": "lonely.default.svc.cluster.local" });

    turn(cluster, &inside("ClusterIP"));
    serves(cluster);
    turn(cluster, &outside);
    alias(cluster, "lonely.default.svc.cluster.local");
    turn(cluster, &inside("NodePort"));
    serves(cluster);
    let service = cluster.json(&["service", "turning"]);
    let port = &service["spec"]["ports"][0]["nodePort"];
    for node in super::NODES {
        answers(cluster, &format!("http://{}:{port}/", node_ip(cluster, node)), "web-a");
    }
    turn(cluster, &outside);
    alias(cluster, "lonely.default.svc.cluster.local");
    let service = cluster.json(&["service", "turning"]);
    let spec = &service["spec"];
    let left = [&spec["clusterIP"], &spec["clusterIPs"], &spec["ports"][0]["nodePort"]];
    assert!(left.iter().all(|own| own.is_null()), "{spec}");
    turn(cluster, &inside("ClusterIP"));
    serves(cluster);
}

fn turn(cluster: &Cluster, spec: &Value) {
    let patch = json!({ "spec": spec }).to_string();
    cluster.kubectl(&["patch", "service/turning", "--type=merge", "-p", &patch]).ok();
}

/// Its name is another one for this.
fn alias(cluster: &Cluster, of: &str) {
    eventually(HOUR_GLASS, &format!("{NAME} is {of}"), || {
        let said = client(cluster, &format!("nslookup -type=cname {NAME}"))?;
        let found = said.contains(&format!("{NAME}\tcanonical name = {of}"));
        if found { Ok(()) } else { Err(said) }
    });
}

/// By its own address, which its name leads to.
fn serves(cluster: &Cluster) {
    let address = cluster.service_ip("turning");
    eventually(HOUR_GLASS, &format!("{NAME} has {address}"), || {
        let said = client(cluster, &format!("nslookup -type=a {NAME}"))?;
        if said.contains(&address.to_string()) { Ok(()) } else { Err(said) }
    });
    answers(cluster, "http://turning/", "web-a");
    answers(cluster, &format!("http://{address}/"), "web-a");
}
