//! Between the two versions of HorizontalPodAutoscaler, without loss.

use serde_json::{Map, Value, json};

use super::METRICS_ANNOTATION;
use crate::access::Access as _;
use crate::kinds::metadata;

const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
pub(super) const STATUS_ANNOTATIONS: [&str; 2] = [CURRENT_METRICS, CONDITIONS];

/// Where `v2` nests a value, and what `v1` calls it: source, pointer, name.
type Renaming = (&'static str, &'static str, &'static str);

const SPEC: &[Renaming] = &[
    ("object", "/describedObject", "target"),
    ("object", "/metric/name", "metricName"),
    ("object", "/metric/selector", "selector"),
    ("object", "/target/value", "targetValue"),
    ("object", "/target/averageValue", "averageValue"),
    ("pods", "/metric/name", "metricName"),
    ("pods", "/metric/selector", "selector"),
    ("pods", "/target/averageValue", "targetAverageValue"),
    ("resource", "/name", "name"),
    ("resource", "/target/averageUtilization", "targetAverageUtilization"),
    ("resource", "/target/averageValue", "targetAverageValue"),
    ("containerResource", "/name", "name"),
    ("containerResource", "/container", "container"),
    ("containerResource", "/target/averageUtilization", "targetAverageUtilization"),
    ("containerResource", "/target/averageValue", "targetAverageValue"),
    ("external", "/metric/name", "metricName"),
    ("external", "/metric/selector", "metricSelector"),
    ("external", "/target/value", "targetValue"),
    ("external", "/target/averageValue", "targetAverageValue"),
];

const STATUS: &[Renaming] = &[
    ("object", "/describedObject", "target"),
    ("object", "/metric/name", "metricName"),
    ("object", "/metric/selector", "selector"),
    ("object", "/current/value", "currentValue"),
    ("object", "/current/averageValue", "averageValue"),
    ("pods", "/metric/name", "metricName"),
    ("pods", "/metric/selector", "selector"),
    ("pods", "/current/averageValue", "currentAverageValue"),
    ("resource", "/name", "name"),
    ("resource", "/current/averageUtilization", "currentAverageUtilization"),
    ("resource", "/current/averageValue", "currentAverageValue"),
    ("containerResource", "/name", "name"),
    ("containerResource", "/container", "container"),
    ("containerResource", "/current/averageUtilization", "currentAverageUtilization"),
    ("containerResource", "/current/averageValue", "currentAverageValue"),
    ("external", "/metric/name", "metricName"),
    ("external", "/metric/selector", "metricSelector"),
    ("external", "/current/value", "currentValue"),
    ("external", "/current/averageValue", "currentAverageValue"),
];

/// Turns a `v1` object into a `v2` one.
pub fn to_v2(scaler: &mut Value) {
    if scaler.text("apiVersion") == "autoscaling/v2" {
        return;
    }
    let annotation = |scaler: &mut Value, name: &str| -> Option<Value> {
        serde_json::from_str(&take_annotation(scaler, name)?).ok()
    };
    let others = annotation(scaler, METRICS_ANNOTATION);
    let current = annotation(scaler, CURRENT_METRICS);
    let conditions = annotation(scaler, CONDITIONS);
    let behavior = annotation(scaler, BEHAVIOR);
    let spec = metadata::child(scaler, "spec");
    let mut metrics = Vec::new();
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
        metrics.push(cpu("target", json!({"type": "Utilization", "averageUtilization": percent})));
    }
    metrics.extend(list(others).iter().map(|metric| nested(metric, SPEC, target_type)));
    if !metrics.is_empty() {
        spec.insert("metrics".to_owned(), Value::Array(metrics));
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".to_owned(), behavior);
    }
    let status = metadata::child(scaler, "status");
    let percent = status.remove("currentCPUUtilizationPercentage");
    let mut metrics: Vec<Value> =
        list(current).iter().map(|metric| nested(metric, STATUS, |_| None)).collect();
    if metrics.is_empty()
        && let Some(percent) = percent
    {
        metrics.push(cpu("current", json!({"averageUtilization": percent})));
    }
    let metrics = if metrics.is_empty() { Value::Null } else { Value::Array(metrics) };
    status.insert("currentMetrics".to_owned(), metrics);
    if let Some(conditions) = conditions {
        status.insert("conditions".to_owned(), conditions);
    }
    set_version(scaler, "autoscaling/v2");
}

/// Turns a `v2` object into a `v1` one.
pub fn to_v1(scaler: &mut Value) {
    if scaler.text("apiVersion") == "autoscaling/v1" {
        return;
    }
    let spec = metadata::child(scaler, "spec");
    let mut metrics = list(spec.remove("metrics"));
    let utilisation = metrics.iter().position(is_cpu_utilisation);
    if let Some(position) = utilisation {
        let metric = metrics.remove(position);
        let percent = metric["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
    }
    let others: Vec<Value> = metrics.iter().map(|metric| flat(metric, SPEC)).collect();
    let behavior = spec.remove("behavior");
    let status = metadata::child(scaler, "status");
    let current = list(status.remove("currentMetrics"));
    let cpu = current.iter().find(|metric| metric["resource"].text("name") == "cpu");
    if let Some(percent) = cpu.and_then(|cpu| cpu.pointer("/resource/current/averageUtilization")) {
        status.insert("currentCPUUtilizationPercentage".to_owned(), percent.clone());
    }
    status.entry("currentReplicas").or_insert(json!(0));
    let current: Vec<Value> = current.iter().map(|metric| flat(metric, STATUS)).collect();
    let conditions = list(status.remove("conditions"));
    annotate(scaler, METRICS_ANNOTATION, (!others.is_empty()).then(|| json!(others)));
    annotate(scaler, CURRENT_METRICS, (!current.is_empty()).then(|| json!(current)));
    annotate(scaler, CONDITIONS, (!conditions.is_empty()).then(|| json!(conditions)));
    annotate(scaler, BEHAVIOR, behavior.filter(|behavior| !behavior.is_null()));
    set_version(scaler, "autoscaling/v1");
}

pub(super) fn take_annotation(scaler: &mut Value, name: &str) -> Option<String> {
    let own = metadata::of(scaler);
    let annotations = own.get_mut("annotations")?.as_object_mut()?;
    let value = annotations.remove(name);
    if annotations.is_empty() {
        own.remove("annotations");
    }
    value?.as_str().map(str::to_owned)
}

fn annotate(scaler: &mut Value, name: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    let annotations = metadata::grandchild(scaler, "metadata", "annotations");
    annotations.insert(name.to_owned(), Value::from(value.to_string()));
}

fn set_version(scaler: &mut Value, version: &str) {
    if let Value::Object(fields) = scaler {
        fields.insert("apiVersion".to_owned(), json!(version));
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn cpu(part: &str, value: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", part: value}})
}

fn is_cpu_utilisation(metric: &Value) -> bool {
    let resource = &metric["resource"];
    metric.text("type") == "Resource"
        && resource.text("name") == "cpu"
        && resource["target"].has("averageUtilization")
}

/// A metric with the names of `v1`.
fn flat(metric: &Value, table: &[Renaming]) -> Value {
    let mut flat = json!({"type": metric["type"]});
    for (source, pointer, name) in table {
        let Some(from) = metric.get(source) else { continue };
        if flat.get(*source).is_none() {
            flat[*source] = json!({});
        }
        if let Some(value) = from.pointer(pointer) {
            flat[*source][*name] = value.clone();
        }
    }
    flat
}

/// A metric with the structure of `v2`.
fn nested(
    metric: &Value,
    table: &[Renaming],
    target_type: fn(&Map<String, Value>) -> Option<&'static str>,
) -> Value {
    let mut nested = json!({"type": metric["type"]});
    for (source, pointer, name) in table {
        let Some(from) = metric.get(source) else { continue };
        let Some(value) = from.get(*name) else { continue };
        let mut at = &mut nested[*source];
        for part in pointer.trim_start_matches('/').split('/') {
            at = &mut at[part];
        }
        *at = value.clone();
    }
    for source in super::METRIC_SOURCES {
        let Some(Value::Object(target)) = nested.pointer_mut(&format!("/{source}/target")) else {
            continue;
        };
        if let Some(kind) = target_type(target) {
            target.insert("type".to_owned(), json!(kind));
        }
    }
    nested
}

/// `v1` does not say which type a target has; it follows from what is there.
fn target_type(target: &Map<String, Value>) -> Option<&'static str> {
    let kinds = [
        ("averageUtilization", "Utilization"),
        ("averageValue", "AverageValue"),
        ("value", "Value"),
    ];
    kinds.iter().find(|(field, _)| target.contains_key(*field)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "annotations": {"own": "kept"}},
            "spec": {
                "minReplicas": 1, "maxReplicas": 3,
                "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "behavior": {"scaleDown": {"selectPolicy": "Max"}},
                "metrics": [
                    cpu("target", json!({"type": "Utilization", "averageUtilization": 80})),
                    {"type": "Pods", "pods": {"metric": {"name": "q"},
                        "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"metric": {"name": "r"},
                        "describedObject": {"kind": "Ingress", "name": "i"},
                        "target": {"type": "Value", "value": "2k"}}},
                ],
            },
            "status": {
                "currentReplicas": 2, "desiredReplicas": 2,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [cpu("current", json!({"averageUtilization": 7, "averageValue": "70m"}))],
            },
        })
    }

    #[test]
    fn there_and_back_is_the_same() {
        let mut object = full();
        to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], json!(80));
        assert_eq!(object["status"]["currentCPUUtilizationPercentage"], json!(7));
        assert_eq!(
            object["metadata"]["annotations"][METRICS_ANNOTATION],
            json!(
                r#"[{"pods":{"metricName":"q","targetAverageValue":"10"},"type":"Pods"},{"object":{"metricName":"r","target":{"kind":"Ingress","name":"i"},"targetValue":"2k"},"type":"Object"}]"#
            )
        );
        to_v2(&mut object);
        assert_eq!(object, full());
    }

    #[test]
    fn an_annotation_that_is_no_json_is_dropped() {
        let mut object = json!({"apiVersion": "autoscaling/v1", "metadata":
            {"name": "h", "annotations": {METRICS_ANNOTATION: "{"}}, "spec": {}, "status": {}});
        to_v2(&mut object);
        assert_eq!(object["spec"], json!({}));
    }
}
