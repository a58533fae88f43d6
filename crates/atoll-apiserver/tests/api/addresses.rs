//! Addresses of Services as objects: an IPAddress for each, from every ServiceCIDR, one holder
//! each whatever races. And the resources that old clients still ask for.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Answer, Api};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what} did not come about within ten seconds");
}

async fn ready_cidr(api: &Api, name: &str, cidr: &str) {
    let object = json!({"metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
    api.create(CIDRS, &object).await.ok();
    let condition = json!({"type": "Ready", "status": "True", "reason": "", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [condition]}});
    api.merge(&format!("{CIDRS}/{name}/status"), &status).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_comes_and_goes_with_its_service() {
    let api = Api::start().await;
    let made = api.create(SERVICES, &service("web")).await.ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let held = api.get(&format!("{ADDRESSES}/{address}")).await.ok();
    assert_eq!(
        held["spec"]["parentRef"],
        json!({"group": "", "resource": "services", "namespace": "default", "name": "web"})
    );
    assert_eq!(
        held["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"],
        "ipallocator.k8s.io"
    );
    // Of the API's own Service too.
    assert_eq!(api.get(&format!("{ADDRESSES}/10.43.0.1")).await.code, 200);

    let away = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com",
        "clusterIP": null, "clusterIPs": null}});
    api.merge(&format!("{SERVICES}/web"), &away).await.ok();
    assert_eq!(api.get(&format!("{ADDRESSES}/{address}")).await.code, 404);
    api.create(SERVICES, &service("other")).await.ok();
    let other = api.get(&format!("{SERVICES}/other")).await.ok();
    let address = other["spec"]["clusterIP"].as_str().unwrap().to_owned();
    api.delete(&format!("{SERVICES}/other")).await.ok();
    assert_eq!(api.get(&format!("{ADDRESSES}/{address}")).await.code, 404);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_reserved_is_given_to_nobody() {
    let api = Api::start().await;
    let reserved = json!({"metadata": {"name": "10.43.7.7"}, "spec": {"parentRef":
        {"resource": "appliances", "group": "example.com", "name": "printer"}}});
    api.create(ADDRESSES, &reserved).await.ok();
    let mut wanted = service("web");
    wanted["spec"]["clusterIP"] = json!("10.43.7.7");
    let refused = api.create(SERVICES, &wanted).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert!(
        refused.body["message"].as_str().unwrap().ends_with("provided IP is already allocated")
    );
    // What somebody else made stays.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(api.get(&format!("{ADDRESSES}/10.43.7.7")).await.code, 200);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_missing_or_left_over_is_mended() {
    let api = Api::start().await;
    let made = api.create(SERVICES, &service("web")).await.ok();
    let address = format!("{ADDRESSES}/{}", made["spec"]["clusterIP"].as_str().unwrap());
    api.delete(&address).await.ok();
    eventually("the IPAddress", async || api.get(&address).await.code == 200).await;
    let orphan = json!({
        "metadata": {"name": "10.43.9.9",
            "labels": {"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"}},
        "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "gone"}},
    });
    api.create(ADDRESSES, &orphan).await.ok();
    let orphan = format!("{ADDRESSES}/10.43.9.9");
    eventually("the end of the orphan", async || api.get(&orphan).await.code == 404).await;
    api.shutdown().await;
}

/// Fourteen addresses, twenty Services at once: each address has one holder, and the rest hear
/// that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn no_race_gives_an_address_away_twice() {
    let api = Api::start_with(|config| config.service_cidr.prefix = 28).await;
    let services: Vec<Value> = (0..20).map(|index| service(&format!("s{index}"))).collect();
    let all = services.iter().map(|one| api.create(SERVICES, one));
    let answers: Vec<Answer> = futures::future::join_all(all).await;
    let given: Vec<&str> = answers
        .iter()
        .filter(|answer| answer.code == 201)
        .map(|answer| answer.body["spec"]["clusterIP"].as_str().unwrap())
        .collect();
    let distinct: BTreeSet<&&str> = given.iter().collect();
    assert_eq!(distinct.len(), given.len(), "an address was given twice: {given:?}");
    let list = api.get(ADDRESSES).await.ok();
    // The API's own Service has one.
    assert_eq!(list["items"].as_array().unwrap().len(), given.len() + 1);

    // A second network has room for the rest.
    ready_cidr(&api, "more", "10.98.0.0/24").await;
    eventually("an address of the second network", async || {
        let one = api.create(SERVICES, &service("late")).await;
        one.code == 409 || one.code == 201
    })
    .await;
    let full: Vec<Value> = (0..13).map(|index| service(&format!("t{index}"))).collect();
    let made = futures::future::join_all(full.iter().map(|one| api.create(SERVICES, one))).await;
    let second = made.iter().filter(|answer| {
        answer.body["spec"]["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.98.0."))
    });
    assert!(second.count() > 0, "nobody has an address of the second network");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_bind_by_bindings_and_ask_for_components() {
    let api = Api::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.create(pods, &pod).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let bindings = "/api/v1/namespaces/default/bindings";
    let bound = api.create(bindings, &binding).await;
    assert_eq!(
        (bound.code, &bound.body["kind"], &bound.body["status"]),
        (201, &json!("Status"), &json!("Success"))
    );
    assert_eq!(api.get(&format!("{pods}/p")).await.ok()["spec"]["nodeName"], "n1");
    let none = json!({"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "n1"}});
    api.create(bindings, &none).await.fails(404, "pods \"q\" not found");

    let list = api.get("/api/v1/componentstatuses").await;
    assert_eq!(list.warnings().len(), 1);
    let list = list.ok();
    assert_eq!(list["kind"], "ComponentStatusList");
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let store = api.get("/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!(
        store["conditions"],
        json!([{"type": "Healthy", "status": "True", "message": "ok"}])
    );
    // Nobody holds its Lease here.
    let scheduler = api.get("/api/v1/componentstatuses/scheduler").await.ok();
    assert_eq!(scheduler["conditions"][0]["status"], "False");
    api.get("/api/v1/componentstatuses/x").await.fails(404, "componentstatuses \"x\" not found");
    api.shutdown().await;
}
