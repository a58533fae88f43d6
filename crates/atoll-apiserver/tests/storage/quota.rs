//! Quotas, limit ranges, classes and protection, as admission has them.

use std::sync::Arc;

use atoll_store::Keyspace;
use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

/// Writes a quota as the controller has counted it.
async fn counted(api: &Api, name: &str, spec: Value, used: Value) {
    let hard = spec["hard"].clone();
    api.create(QUOTAS, &json!({"metadata": {"name": name}, "spec": spec})).await.ok();
    let status = json!({"status": {"hard": hard, "used": used}});
    let path = format!("{QUOTAS}/{name}/status");
    api.merge(&path, &status).await.ok();
    // Admission finds out from memory whether there are quotas.
    api.server.core().registry.catch_up().await.unwrap();
}

async fn used(api: &Api, name: &str) -> Value {
    api.get(&format!("{QUOTAS}/{name}")).await.ok()["status"]["used"].clone()
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": resources}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_at_once_never_pass_a_limit() {
    let api = Arc::new(Api::start().await);
    counted(
        &api,
        "few",
        json!({"hard": {"count/configmaps": "50"}}),
        json!({"count/configmaps": "0"}),
    )
    .await;
    let mut servers = vec![api.clone()];
    for _ in 0..2 {
        servers.push(Arc::new(api.beside(Keyspace::Cluster).await));
    }
    let mut creates = tokio::task::JoinSet::new();
    for number in 0..200 {
        let server = servers[number % servers.len()].clone();
        creates.spawn(async move {
            server.create(CONFIG_MAPS, &config_map(&format!("m-{number}"))).await
        });
    }
    let (mut made, mut refused) = (0, 0);
    while let Some(answer) = creates.join_next().await {
        let answer = answer.unwrap();
        match answer.code {
            201 => made += 1,
            403 => {
                let text = answer.body["message"].as_str().unwrap().to_owned();
                assert!(
                    text.ends_with(
                        "is forbidden: exceeded quota: few, requested: count/configmaps=1, \
                         used: count/configmaps=50, limited: count/configmaps=50"
                    ),
                    "{text}"
                );
                refused += 1;
            }
            other => panic!("{other}: {}", answer.body),
        }
    }
    assert_eq!((made, refused), (50, 150));
    assert_eq!(used(&api, "few").await, json!({"count/configmaps": "50"}));
    let listed = api.get(CONFIG_MAPS).await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_charged_for_what_they_ask() {
    let api = Api::start().await;
    let hard = json!({"hard": {"pods": "2", "requests.cpu": "1", "limits.cpu": "2"}});
    counted(&api, "q", hard, json!({"pods": "0", "requests.cpu": "0", "limits.cpu": "0"})).await;
    api.create(PODS, &pod("open", json!({}))).await.fails(
        403,
        "pods \"open\" is forbidden: failed quota: q: must specify limits.cpu for: c; \
         requests.cpu for: c",
    );
    let half = json!({"requests": {"cpu": "600m"}, "limits": {"cpu": "1"}});
    api.create(PODS, &pod("a", half.clone())).await.ok();
    assert_eq!(
        used(&api, "q").await,
        json!({"pods": "1", "requests.cpu": "600m", "limits.cpu": "1"})
    );
    api.create(PODS, &pod("b", half)).await.fails(
        403,
        "pods \"b\" is forbidden: exceeded quota: q, requested: requests.cpu=600m, \
         used: requests.cpu=600m, limited: requests.cpu=1",
    );
    let small = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "100m"}});
    let dry = format!("{PODS}?dryRun=All");
    api.create(&dry, &pod("dry", small.clone())).await.ok();
    assert_eq!(used(&api, "q").await["pods"], "1", "a dry run charges nothing");
    api.create(PODS, &pod("c", small.clone())).await.ok();
    api.create(PODS, &pod("d", small)).await.fails(
        403,
        "pods \"d\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, \
         limited: pods=2",
    );
    let taken = api.create(PODS, &pod("c", json!({}))).await;
    assert_eq!(taken.code, 403);
    assert_eq!(used(&api, "q").await["pods"], "2");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_grows_is_charged_and_what_is_not_covered_is_not() {
    let api = Api::start().await;
    let hard = json!({"hard": {"services.nodeports": "1", "services": "5"}});
    counted(&api, "s", hard, json!({"services.nodeports": "0", "services": "0"})).await;
    let service =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    api.create(SERVICES, &service("a")).await.ok();
    api.create(SERVICES, &service("b")).await.ok();
    let node_port = json!({"spec": {"type": "NodePort"}});
    api.merge(&format!("{SERVICES}/a"), &node_port).await.ok();
    assert_eq!(used(&api, "s").await, json!({"services.nodeports": "1", "services": "2"}));
    api.merge(&format!("{SERVICES}/b"), &node_port).await.fails(
        403,
        "services \"b\" is forbidden: exceeded quota: s, requested: services.nodeports=1, \
         used: services.nodeports=1, limited: services.nodeports=1",
    );
    let scoped = json!({"hard": {"pods": "0"}, "scopes": ["Terminating"]});
    counted(&api, "t", scoped, json!({"pods": "0"})).await;
    api.create(PODS, &pod("runs-on", json!({}))).await.ok();
    let mut short = pod("ends", json!({}));
    short["spec"]["activeDeadlineSeconds"] = json!(5);
    assert_eq!(api.create(PODS, &short).await.code, 403);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_that_is_not_counted_yet_is_touched_by_every_create() {
    let api = Api::start().await;
    let quota = json!({"metadata": {"name": "new"}, "spec": {"hard": {"count/configmaps": "1"}}});
    let made = api.create(QUOTAS, &quota).await.ok();
    api.server.core().registry.catch_up().await.unwrap();
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let now = api.get(&format!("{QUOTAS}/new")).await.ok();
    assert_ne!(now["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let stale = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]},
        "status": {"hard": {"count/configmaps": "1"}, "used": {"count/configmaps": "0"}}});
    let late = api.merge(&format!("{QUOTAS}/new/status"), &stale).await;
    assert_eq!(late.code, 409, "a count that began before the create must fail");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_ranges_give_and_bound() {
    let api = Api::start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "max": {"memory": "1Gi"}, "default": {"memory": "512Mi"},
         "defaultRequest": {"memory": "256Mi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "2Gi"}}]}});
    api.create("/api/v1/namespaces/default/limitranges", &range).await.ok();
    api.server.core().registry.catch_up().await.unwrap();
    let made = api.create(PODS, &pod("a", json!({}))).await.ok();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"memory": "512Mi"}, "requests": {"memory": "256Mi"}})
    );
    api.create(PODS, &pod("b", json!({"limits": {"memory": "2Gi"}}))).await.fails(
        403,
        "pods \"b\" is forbidden: [maximum memory usage per Container is 1Gi, but limit is 2Gi, \
         maximum memory usage per Container is 1Gi, but request is 2Gi]",
    );
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "3Gi"}}}});
    api.create(CLAIMS, &claim).await.fails(
        403,
        "persistentvolumeclaims \"c\" is forbidden: maximum storage usage per \
         PersistentVolumeClaim is 2Gi, but request is 3Gi",
    );
    // Another range counts for what is created from then on, and none for nobody.
    let other = json!({"spec": {"limits": [{"type": "Container", "max": {"memory": "3Gi"},
        "min": {"memory": "100Mi"}, "default": {"memory": "1Gi"}}]}});
    api.merge("/api/v1/namespaces/default/limitranges/r", &other).await.ok();
    api.server.core().registry.catch_up().await.unwrap();
    api.create(PODS, &pod("b", json!({"limits": {"memory": "2Gi"}}))).await.ok();
    let made = api.create(PODS, &pod("d", json!({}))).await.ok();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}));
    api.create(PODS, &pod("e", json!({"limits": {"memory": "50Mi"}}))).await.fails(
        403,
        "pods \"e\" is forbidden: [minimum memory usage per Container is 100Mi, but request is \
         50Mi, minimum memory usage per Container is 100Mi, but limit is 50Mi]",
    );
    api.delete("/api/v1/namespaces/default/limitranges/r").await.ok();
    api.server.core().registry.catch_up().await.unwrap();
    let made = api.create(PODS, &pod("e", json!({}))).await.ok();
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({}));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_get_a_class_and_are_protected() {
    let api = Api::start().await;
    let class = json!({"metadata": {"name": "fast", "annotations":
        {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"});
    api.create("/apis/storage.k8s.io/v1/storageclasses", &class).await.ok();
    api.server.core().registry.catch_up().await.unwrap();
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let made = api.create(CLAIMS, &claim("a")).await.ok();
    assert_eq!(made["spec"]["storageClassName"], "fast");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    assert_eq!(made["status"], json!({"phase": "Pending"}));
    let mut none = claim("b");
    none["spec"]["storageClassName"] = json!("");
    assert_eq!(api.create(CLAIMS, &none).await.ok()["spec"]["storageClassName"], "");
    let one = format!("{CLAIMS}/a");
    let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = api.merge(&one, &grow).await;
    assert!(refused.code >= 403, "{}", refused.body);
    api.merge(&format!("{one}/status"), &json!({"status": {"phase": "Bound"}})).await.ok();
    api.merge(&one, &grow).await.fails(
        403,
        "persistentvolumeclaims \"a\" is forbidden: only dynamically provisioned pvc can be \
         resized and the storageclass that provisions the pvc must support resize",
    );
    let other = json!({"spec": {"accessModes": ["ReadWriteMany"]}});
    let text = api.merge(&one, &other).await.body["message"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with(
            "PersistentVolumeClaim \"a\" is invalid: spec: Forbidden: spec is immutable after \
             creation except resources.requests and volumeAttributesClassName for bound claims"
        ),
        "{text}"
    );
    let gone = api.delete(&one).await.ok();
    assert!(gone["metadata"]["deletionTimestamp"].is_string(), "held by its finalizer");
    api.shutdown().await;
}
