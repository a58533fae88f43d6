//! Autoscalers that are refused.

use serde_json::json;

use super::*;

fn texts(more: Value) -> Vec<String> {
    let mut spec = json!({"minReplicas": 1, "maxReplicas": 3,
        "scaleTargetRef": {"kind": "Deployment", "name": "d"}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    autoscaler(&json!({"spec": spec})).iter().map(ToString::to_string).collect()
}

#[test]
fn bounds_are_in_order() {
    assert_eq!(texts(json!({})), [""; 0]);
    assert_eq!(
        texts(json!({"minReplicas": 0})),
        [
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            "spec.metrics: Forbidden: must specify at least one Object or External metric to support \
             scaling to zero replicas",
        ]
    );
    assert_eq!(
        texts(json!({"minReplicas": 4})),
        ["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"]
    );
    assert_eq!(
        texts(json!({"scaleTargetRef": {"name": "d"}})),
        ["spec.scaleTargetRef.kind: Required value"]
    );
}

#[test]
fn a_metric_has_one_source_and_a_target() {
    let metric = |metric: Value| texts(json!({"metrics": [metric]}));
    assert_eq!(
        metric(
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}})
        ),
        [
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target \
          raw value or a target utilization"
        ]
    );
    assert_eq!(
        metric(json!({"type": "Pods"})),
        [
            "spec.metrics[0].pods: Required value: must populate information for the given metric source"
        ]
    );
    let pods =
        json!({"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "0"}});
    assert_eq!(
        metric(json!({"type": "Pods", "pods": pods})),
        ["spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive"]
    );
}

#[test]
fn behavior_is_bounded() {
    let policy = json!({"type": "Pods", "value": 1, "periodSeconds": 1801});
    assert_eq!(
        texts(json!({"behavior": {"scaleUp": {"policies": [policy]}}})),
        [
            "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or \
          equal to 1800"
        ]
    );
}
