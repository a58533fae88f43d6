//! HorizontalPodAutoscalers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;
use crate::kinds::autoscaling;

/// Metrics that a row shows.
const METRICS_SHOWN_MAX: usize = 2;
const UNKNOWN: &str = "<unknown>";

pub(crate) const AUTOSCALER: &[Column] = &[
    NAME,
    text("Reference", "The scaled object."),
    text("Targets", "The current values of the metrics, and those aimed at."),
    text("MinPods", "The lower limit for the number of replicas."),
    text("MaxPods", "The upper limit for the number of replicas."),
    text("Replicas", "The current number of replicas."),
    AGE,
];

pub(crate) fn autoscaler(scaler: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&scaler["spec"], &scaler["status"]);
    let target = &spec["scaleTargetRef"];
    let minimum = spec.int("minReplicas");
    vec![
        name(scaler),
        json!(format!("{}/{}", target.text("kind"), target.text("name"))),
        json!(metrics(spec.items("metrics"), status.items("currentMetrics"))),
        json!(minimum.map_or_else(|| "<unset>".to_owned(), |least| least.to_string())),
        json!(spec.int("maxReplicas").unwrap_or(0)),
        json!(status.int("currentReplicas").unwrap_or(0)),
        age(scaler, now),
    ]
}

/// Rows of the old version are those of what it stands for.
pub(crate) fn autoscaler_v1(scaler: &Value, now: Timestamp) -> Vec<Value> {
    let mut new = scaler.clone();
    autoscaling::to_v2(&mut new);
    autoscaler(&new, now)
}

fn metrics(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let all = specs.iter().enumerate().map(|(index, spec)| metric(spec, statuses.get(index)));
    let mut list: Vec<String> = all.collect();
    let more = list.len().saturating_sub(METRICS_SHOWN_MAX);
    list.truncate(METRICS_SHOWN_MAX);
    let text = list.join(", ");
    if more > 0 { format!("{text} + {more} more...") } else { text }
}

fn metric(spec: &Value, status: Option<&Value>) -> String {
    let source = match spec.text("type") {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "External" => "external",
        _ => return "<unknown type>".to_owned(),
    };
    let target = &spec[source]["target"];
    let empty = Value::Null;
    let current = status.map_or(&empty, |status| &status[source]["current"]);
    let shown = |field: &str| current.opt_text(field).unwrap_or(UNKNOWN).to_owned();
    match source {
        "resource" | "containerResource" => {
            let name = spec[source].text("name");
            if let Some(value) = target.opt_text("averageValue") {
                return format!("{name}: {}/{value}", shown("averageValue"));
            }
            let percent = |value: &Value, none: &str| {
                let share = value.int("averageUtilization");
                share.map_or_else(|| none.to_owned(), |share| format!("{share}%"))
            };
            format!("{name}: {}/{}", percent(current, UNKNOWN), percent(target, "<auto>"))
        }
        "pods" => format!("{}/{}", shown("averageValue"), target.text("averageValue")),
        _ => match target.opt_text("averageValue") {
            Some(value) => format!("{}/{value} (avg)", shown("averageValue")),
            None => format!("{}/{}", shown("value"), target.text("value")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_show_what_is_and_what_is_aimed_at() {
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 80}}});
        let pods = json!({"type": "Pods", "pods": {"metric": {"name": "q"},
            "target": {"type": "AverageValue", "averageValue": "10"}}});
        let object = json!({"type": "Object", "object": {"target": {"averageValue": "1"}}});
        let now = json!({"type": "Resource",
            "resource": {"name": "cpu", "current": {"averageUtilization": 12}}});
        assert_eq!(metrics(&[], &[]), "<none>");
        assert_eq!(metrics(std::slice::from_ref(&cpu), &[now]), "cpu: 12%/80%");
        assert_eq!(
            metrics(&[cpu, pods, object], &[]),
            "cpu: <unknown>/80%, <unknown>/10 + 1 more..."
        );
    }
}
