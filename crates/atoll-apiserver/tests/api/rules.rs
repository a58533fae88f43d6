//! Rules of single kinds: what stays, what is no name, and what a client finds again.

use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, MERGE, STRATEGIC, config_map};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_once_stays() {
    let api = Api::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class = json!({"metadata": {"name": "p"}, "value": 5});
    let mut class = api.create(classes, &class).await.ok();
    class["value"] = json!(6);
    let one = format!("{classes}/p");
    let why = "PriorityClass.scheduling.k8s.io \"p\" is invalid: value: Forbidden: may not be \
               changed in an update.";
    api.put(&one, &class).await.fails(422, why);
    for format in [MERGE, STRATEGIC] {
        api.patch(&one, format, &json!({"value": 6})).await.fails(422, why);
    }
    let described = api.merge(&one, &json!({"description": "changed"})).await.ok();
    assert_eq!((&described["value"], &described["description"]), (&json!(5), &json!("changed")));

    for (path, kind) in [(SECRETS, "Secret"), (CONFIG_MAPS, "ConfigMap")] {
        let made = json!({"metadata": {"name": "i"}, "data": {"a": "Yg=="}});
        api.create(path, &made).await.ok();
        let one = format!("{path}/i");
        api.merge(&one, &json!({"data": {"a": "Yw=="}})).await.ok();
        api.merge(&one, &json!({"immutable": true})).await.ok();
        let start = format!("{kind} \"i\" is invalid: ");
        let data = "data: Forbidden: field is immutable when `immutable` is set";
        let refused = api.merge(&one, &json!({"data": {"a": "ZA=="}})).await;
        refused.fails(422, &format!("{start}{data}"));
        let flag = "immutable: Forbidden: field is immutable when `immutable` is set";
        let refused = api.merge(&one, &json!({"immutable": false})).await;
        refused.fails(422, &format!("{start}{flag}"));
        api.merge(&one, &json!({"metadata": {"labels": {"still": "changes"}}})).await.ok();
        api.delete(&one).await.ok();
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_name_is_refused() {
    let api = Api::start().await;
    let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
                'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is \
                '[-._a-zA-Z0-9]+')";
    for (path, kind) in [(SECRETS, "Secret"), (CONFIG_MAPS, "ConfigMap")] {
        let empty = json!({"metadata": {"name": "e"}, "data": {"": "YQ=="}});
        let why = format!("{kind} \"e\" is invalid: data[]: Invalid value: \"\": {rule}");
        api.create(path, &empty).await.fails(422, &why);
    }
    let mut sysctls = pod("s");
    let names = ["foo-", "kernel.shmmax", "safe-and-unsafe", "bar.."];
    let named: Vec<Value> =
        names.iter().map(|name| json!({"name": name, "value": "100000000"})).collect();
    sysctls["spec"]["securityContext"] = json!({"sysctls": named});
    let refused = api.create(PODS, &sysctls).await;
    let text = refused.body["message"].as_str().unwrap();
    assert_eq!(refused.code, 422, "{text}");
    for (name, wrong) in
        [("foo-", true), ("kernel.shmmax", false), ("safe-and-unsafe", false), ("bar..", true)]
    {
        assert_eq!(text.contains(&format!("Invalid value: \"{name}\"")), wrong, "{text}");
    }
    api.shutdown().await;
}

/// A volume of a driver stands in the Pod itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_names_a_driver_for_its_volume() {
    let api = Api::start().await;
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    let driver = json!({"metadata": {"name": "inline.example.com"}, "spec": {
        "attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]}});
    api.create(drivers, &driver).await.ok();
    let mut made = pod("inline");
    made["spec"]["volumes"] = json!([{"name": "v", "csi": {"driver": "inline.example.com",
        "readOnly": true, "volumeAttributes": {"a": "b"}, "fsType": "ext4",
        "nodePublishSecretRef": {"name": "s"}}}]);
    made["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let made = api.create(PODS, &made).await.ok();
    let one = format!("{PODS}/inline");
    let found = api.get(&one).await.ok();
    assert_eq!(found["spec"]["volumes"], made["spec"]["volumes"]);
    assert_eq!(found["spec"]["volumes"][0]["csi"]["driver"], "inline.example.com");
    let listed = api.get(&format!("{PODS}?fieldSelector=metadata.name=inline")).await.ok();
    assert_eq!(listed["items"][0]["spec"]["volumes"], found["spec"]["volumes"]);
    let label = json!({"metadata": {"labels": {"seen": "yes"}}});
    api.patch(&one, STRATEGIC, &label).await.ok();
    let nothing = json!({"metadata": {"name": "none"}, "spec": {
        "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "csi": {}}]}});
    let refused = api.create(PODS, &nothing).await;
    let text = refused.body["message"].as_str().unwrap();
    assert!(text.contains("spec.volumes[0].csi.driver: Required value"), "{text}");
    api.delete(&format!("{PODS}?labelSelector=seen=yes")).await.ok();
    assert_eq!(api.get(&one).await.code, 404);
    api.delete(&format!("{drivers}/inline.example.com")).await.ok();
    api.shutdown().await;
}

/// What a controller of load balancers writes, and who may not.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_service_tells_its_addresses() {
    let api = Api::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer",
        "ports": [{"port": 80, "name": "http", "protocol": "TCP"}],
        "loadBalancerClass": "example.com/internal-vip"}});
    api.create(services, &service).await.ok();
    let part = format!("{services}/s/status");
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}});
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": ingress});
    let patched = api.merge(&part, &patch).await.ok();
    assert_eq!(patched["status"]["loadBalancer"]["ingress"][0]["ip"], "203.0.113.1");
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    let mut whole = api.get(&part).await.ok();
    whole["status"]["conditions"] = json!([{"type": "StatusUpdate", "status": "True",
        "reason": "E2E", "message": "Set", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let replaced = api.put(&part, &whole).await.ok();
    assert_eq!(replaced["status"]["conditions"][0]["type"], "StatusUpdate");
    let main = json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}});
    api.merge(&format!("{services}/s"), &main).await.ok();
    let refused = api.merge(&part, &patch).await;
    let why = "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \
               'LoadBalancer'";
    let text = refused.body["message"].as_str().unwrap();
    assert!(refused.code == 422 && text.contains(why), "{}: {text}", refused.code);
    api.delete(&format!("{services}/s")).await.ok();
    api.shutdown().await;
}

/// The older documents of discovery: every group, its versions, and their resources.
#[tokio::test(flavor = "multi_thread")]
async fn every_group_says_what_it_has() {
    let api = Api::start().await;
    let groups = api.get("/apis").await.ok();
    let groups = groups["groups"].as_array().unwrap();
    assert!(groups.len() > 15, "{} groups", groups.len());
    for group in groups {
        let name = group["name"].as_str().unwrap();
        let own = api.get(&format!("/apis/{name}")).await.ok();
        assert_eq!((&own["kind"], &own["name"]), (&json!("APIGroup"), &group["name"]));
        assert_eq!(own["versions"], group["versions"]);
        assert_eq!(own["preferredVersion"], group["preferredVersion"]);
        let versions = own["versions"].as_array().unwrap();
        assert!(versions.contains(&own["preferredVersion"]), "{own}");
        for version in versions {
            let place = version["groupVersion"].as_str().unwrap();
            let short = version["version"].as_str().unwrap();
            assert_eq!(place, format!("{name}/{short}"));
            let list = api.get(&format!("/apis/{place}")).await.ok();
            assert_eq!(
                (&list["kind"], &list["groupVersion"]),
                (&json!("APIResourceList"), &json!(place))
            );
            let resources = list["resources"].as_array().unwrap();
            assert!(!resources.is_empty(), "{place}");
            for resource in resources {
                for field in ["name", "kind", "singularName"] {
                    assert!(resource[field].is_string(), "{place}: {resource}");
                }
                assert!(resource["namespaced"].is_boolean(), "{place}: {resource}");
                assert!(!resource["verbs"].as_array().unwrap().is_empty(), "{place}: {resource}");
            }
        }
    }
    let core = api.get("/api/v1").await.ok();
    assert_eq!(core["groupVersion"], "v1");
    let has =
        |name: &str| core["resources"].as_array().unwrap().iter().any(|one| one["name"] == name);
    assert!(has("pods") && has("pods/status") && has("namespaces/finalize"));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_held_by_what_its_spec_names() {
    let api = Api::start().await;
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await.ok();
    let mut own = api.get("/api/v1/namespaces/n").await.ok();
    assert_eq!(own["spec"]["finalizers"], json!(["kubernetes"]));
    own["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fakeFinalizer"]);
    let added = api.put("/api/v1/namespaces/n/finalize", &own).await.ok();
    assert_eq!(added["spec"], own["spec"]);
    // An update of the namespace does not take it away.
    let mut without = added.clone();
    without["spec"]["finalizers"] = json!(["kubernetes"]);
    let same = api.put("/api/v1/namespaces/n", &without).await.ok();
    assert_eq!(same["spec"], own["spec"]);
    let removed = api.put("/api/v1/namespaces/n/finalize", &without).await.ok();
    assert_eq!(removed["spec"]["finalizers"], json!(["kubernetes"]));
    api.create("/api/v1/namespaces/n/configmaps", &config_map("a")).await.ok();
    api.shutdown().await;
}
