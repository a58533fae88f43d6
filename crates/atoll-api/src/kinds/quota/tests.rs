//! What objects count for in a quota.

use serde_json::{Value, json};

use super::amounts::{self, Amounts};
use super::{exceeded, limits, scopes, usage};
use jiff::Timestamp;

fn used(resource: &str, object: &Value) -> Value {
    amounts::write(&usage::of("", resource, object, Timestamp::UNIX_EPOCH))
}

fn list(value: Value) -> Amounts {
    amounts::read(&value)
}

#[test]
fn a_pod_counts_for_what_its_containers_ask_at_the_peak() {
    let pod = json!({"spec": {
        "initContainers": [
            {"name": "first", "resources": {"requests": {"cpu": "2"}}},
            {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
        ],
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1", "example.com/gpu": "1"},
                                         "limits": {"memory": "1Gi"}}},
            {"name": "b", "resources": {"requests": {"cpu": "250m"}}},
        ],
        "overhead": {"cpu": "100m"},
    }});
    let expected = json!({
        "count/pods": "1", "pods": "1", "cpu": "2100m", "requests.cpu": "2100m",
        "limits.memory": "1Gi", "requests.example.com/gpu": "1",
    });
    assert_eq!(used("pods", &pod), expected);
}

#[test]
fn finished_pods_are_only_counted_as_objects() {
    let pod = json!({"status": {"phase": "Succeeded"}, "spec": {"containers": [{"name": "a"}]}});
    assert_eq!(used("pods", &pod), json!({"count/pods": "1"}));
    let overdue = json!({"metadata": {
        "deletionTimestamp": "1969-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}});
    assert_eq!(used("pods", &overdue), json!({"count/pods": "1"}));
}

#[test]
fn services_count_by_their_ports() {
    let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
    let expected = json!({"count/services": "1", "services": "1",
        "services.loadbalancers": "1", "services.nodeports": "2"});
    assert_eq!(used("services", &service), expected);
    let bare = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "ports": [{}, {"nodePort": 30000}]}});
    assert_eq!(used("services", &bare)["services.nodeports"], "1");
}

#[test]
fn claims_count_for_their_class_too() {
    let claim = json!({"spec": {"storageClassName": "gold",
        "resources": {"requests": {"storage": "2Gi"}}}});
    let expected = json!({
        "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1",
        "requests.storage": "2Gi",
        "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "gold.storageclass.storage.k8s.io/requests.storage": "2Gi",
    });
    assert_eq!(used("persistentvolumeclaims", &claim), expected);
}

#[test]
fn what_is_exceeded_is_named() {
    let hard = list(json!({"pods": "2", "requests.cpu": "1"}));
    let held = list(json!({"pods": "2", "requests.cpu": "500m"}));
    let asked = list(json!({"pods": "1", "requests.cpu": "500m", "memory": "1Gi"}));
    assert_eq!(exceeded(&hard, &held, &asked), ["pods"]);
}

#[test]
fn containers_must_state_what_is_limited() {
    let pod = json!({"spec": {"containers": [
        {"name": "b"}, {"name": "a", "resources": {"requests": {"cpu": "1"}}}]}});
    let (cpu, limit) = ("requests.cpu".to_owned(), "limits.cpu".to_owned());
    assert_eq!(
        usage::missing(&pod, &[&cpu, &limit]).as_deref(),
        Some("must specify limits.cpu for: a,b; requests.cpu for: b")
    );
    assert_eq!(usage::missing(&pod, &[&"pods".to_owned()]), None);
}

#[test]
fn scopes_must_all_hold() {
    let quota = |scopes: Value, selector: Value| json!({"spec": {"scopes": scopes, "scopeSelector": selector}});
    let pod = json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high",
        "containers": [{"name": "c"}]}});
    let covers = |quota: &Value| scopes::covers(quota, "", "pods", &pod);
    assert!(covers(&quota(json!(["Terminating", "BestEffort"]), json!({}))));
    assert!(!covers(&quota(json!(["NotTerminating", "BestEffort"]), json!({}))));
    let class = |operator: &str, values: Value| {
        quota(
            json!([]),
            json!({"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]}),
        )
    };
    assert!(covers(&class("In", json!(["high"]))));
    assert!(!covers(&class("NotIn", json!(["high"]))));
    assert!(covers(&class("Exists", json!([]))));
    assert!(!scopes::covers(&class("Exists", json!([])), "", "services", &json!({})));
    assert!(scopes::covers(&quota(json!([]), json!({})), "", "services", &json!({})));
}

#[test]
fn a_range_fills_in_and_bounds() {
    let range = json!({"spec": {"limits": [
        {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"},
         "max": {"cpu": "2"}, "min": {"cpu": "100m"}, "maxLimitRequestRatio": {"cpu": "2"}},
        {"type": "Pod", "max": {"cpu": "3"}},
    ]}});
    let mut pod = json!({"spec": {"containers": [{"name": "a"},
        {"name": "b", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "3"}}}]}});
    limits::complete(&mut pod, &range);
    assert_eq!(
        pod["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}})
    );
    assert_eq!(
        pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container a; cpu limit for container a"
    );
    assert_eq!(
        limits::check_pod(&pod, &range),
        [
            "maximum cpu usage per Container is 2, but limit is 3",
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
            "maximum cpu usage per Pod is 3, but limit is 4",
        ]
    );
}

#[test]
fn claims_are_bounded_in_size() {
    let range = json!({"spec": {"limits": [
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}});
    let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    assert_eq!(
        limits::check_claim(&claim("512Mi"), &range),
        ["minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 512Mi"]
    );
    assert_eq!(
        limits::check_claim(&claim("3Gi"), &range),
        ["maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"]
    );
    assert!(limits::check_claim(&claim("2Gi"), &range).is_empty());
}
