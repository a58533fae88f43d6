//! Pods of a RuntimeClass: what it adds to them, and what is rejected.

use serde_json::{Value, json};

use crate::client::Api;

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
    pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_adds_its_overhead_and_where_its_pods_run() {
    let api = Api::start().await;
    let class = json!({
        "metadata": {"name": "heavy"}, "handler": "heavy",
        "overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}},
        "scheduling": {
            "nodeSelector": {"kind": "large"},
            "tolerations": [{"key": "large", "operator": "Exists", "effect": "NoSchedule"}],
        },
    });
    api.create(CLASSES, &class).await.ok();
    let wanted = pod(json!({"runtimeClassName": "heavy", "nodeSelector": {"zone": "a"}}));
    let made = api.create(PODS, &wanted).await.ok();
    let spec = &made["spec"];
    assert_eq!(spec["overhead"], json!({"cpu": "10m", "memory": "1Mi"}));
    assert_eq!(spec["nodeSelector"], json!({"kind": "large", "zone": "a"}));
    let tolerations = spec["tolerations"].as_array().unwrap();
    assert!(tolerations.iter().any(|one| one["key"] == "large"), "{tolerations:?}");

    let against = pod(json!({"runtimeClassName": "heavy", "nodeSelector": {"kind": "small"}}));
    api.create(PODS, &against).await.fails(
        403,
        "pods \"p\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[kind] = large; \
         pod.spec.nodeSelector[kind] = small",
    );
    let other = pod(json!({"runtimeClassName": "heavy", "overhead": {"cpu": "1"}}));
    api.create(PODS, &other).await.fails(
        403,
        "pods \"p\" is forbidden: pod rejected: Pod's Overhead doesn't match RuntimeClass's defined \
         Overhead",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_a_class_that_there_is_not_is_rejected() {
    let api = Api::start().await;
    api.create(PODS, &pod(json!({"runtimeClassName": "none"})))
        .await
        .fails(403, "pods \"p\" is forbidden: pod rejected: RuntimeClass \"none\" not found");
    let class = json!({"metadata": {"name": "gone"}, "handler": "gone"});
    api.create(CLASSES, &class).await.ok();
    api.delete(&format!("{CLASSES}/gone")).await.ok();
    let answer = api.create(PODS, &pod(json!({"runtimeClassName": "gone"}))).await;
    assert_eq!(answer.code, 403, "{}", answer.body);
    api.create(PODS, &pod(json!({"overhead": {"cpu": "1"}}))).await.fails(
        403,
        "pods \"p\" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass \
         defined Overhead",
    );
    api.shutdown().await;
}
