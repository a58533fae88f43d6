//! HorizontalPodAutoscalers, in both versions.

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, quantity, within};
use crate::access::Access as _;
use crate::kinds::autoscaling::{METRIC_SOURCES, METRICS_ANNOTATION};

/// Share of the requested CPU that pods may use when nothing else is asked for.
const CPU_PERCENT: i64 = 80;
/// The period of the default policies.
const PERIOD_SECONDS: i64 = 15;

pub(crate) fn autoscaler(scaler: &mut Value) {
    normalise(scaler);
    empty(scaler, "spec");
    empty(scaler, "status");
    within(scaler, "spec", |spec| {
        absent(spec, "minReplicas", 1);
        absent(
            spec,
            "metrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "target":
                {"type": "Utilization", "averageUtilization": CPU_PERCENT}}}]),
        );
        each(spec, "metrics").for_each(|metric| amounts(metric, "target"));
        within(spec, "behavior", behavior);
    });
    within(scaler, "status", |status| {
        absent(status, "desiredReplicas", 0);
        each(status, "currentMetrics").for_each(|metric| amounts(metric, "current"));
        // Go writes the list even when there is none.
        absent(status, "currentMetrics", Value::Null);
    });
}

/// The old version has one metric of its own; without any it is CPU as well.
pub(crate) fn autoscaler_v1(scaler: &mut Value) {
    normalise(scaler);
    empty(scaler, "spec");
    empty(scaler, "status");
    let has_others = scaler["metadata"]["annotations"].has(METRICS_ANNOTATION);
    within(scaler, "spec", |spec| {
        absent(spec, "minReplicas", 1);
        if !has_others {
            absent(spec, "targetCPUUtilizationPercentage", CPU_PERCENT);
        }
    });
    within(scaler, "status", |status| {
        absent(status, "currentReplicas", 0);
        absent(status, "desiredReplicas", 0);
    });
}

fn amounts(metric: &mut Value, part: &str) {
    for source in METRIC_SOURCES {
        within(metric, source, |source| {
            within(source, part, |target| {
                quantity(target, "value");
                quantity(target, "averageValue");
            });
        });
    }
}

fn behavior(behavior: &mut Value) {
    empty(behavior, "scaleUp");
    empty(behavior, "scaleDown");
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": PERIOD_SECONDS});
    within(behavior, "scaleUp", |rules| {
        absent(rules, "stabilizationWindowSeconds", 0);
        absent(rules, "selectPolicy", "Max");
        let pods = json!({"type": "Pods", "value": 4, "periodSeconds": PERIOD_SECONDS});
        absent(rules, "policies", json!([pods, percent]));
        quantity(rules, "tolerance");
    });
    within(behavior, "scaleDown", |rules| {
        absent(rules, "selectPolicy", "Max");
        absent(rules, "policies", json!([percent]));
        quantity(rules, "tolerance");
    });
}
