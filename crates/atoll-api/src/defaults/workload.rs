//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{absent, empty, normalise, normalise_metadata, pod, within, zero};
use crate::access::Access as _;

/// Share of the replicas that a rolling update may add or miss.
const ROLLING_SHARE: &str = "25%";

pub(crate) fn deployment(deployment: &mut Value) {
    normalise(deployment);
    empty(deployment, "spec");
    empty(deployment, "status");
    within(deployment, "spec", |spec| {
        absent(spec, "replicas", 1);
        empty(spec, "strategy");
        within(spec, "strategy", strategy);
        absent(spec, "revisionHistoryLimit", 10);
        absent(spec, "progressDeadlineSeconds", 600);
        template(spec);
    });
}

pub(crate) fn replica_set(set: &mut Value) {
    normalise(set);
    empty(set, "spec");
    absent(set, "status", json!({}));
    within(set, "status", |status| absent(status, "replicas", 0));
    within(set, "spec", |spec| {
        absent(spec, "replicas", 1);
        template(spec);
    });
}

fn strategy(strategy: &mut Value) {
    zero(strategy, "type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        empty(strategy, "rollingUpdate");
        within(strategy, "rollingUpdate", |rolling| {
            absent(rolling, "maxUnavailable", ROLLING_SHARE);
            absent(rolling, "maxSurge", ROLLING_SHARE);
        });
    }
}

/// The pod template of a spec.
pub(super) fn template(spec: &mut Value) {
    empty(spec, "template");
    within(spec, "template", |template| {
        empty(template, "metadata");
        within(template, "metadata", normalise_metadata);
        empty(template, "spec");
        within(template, "spec", pod::spec);
    });
}
