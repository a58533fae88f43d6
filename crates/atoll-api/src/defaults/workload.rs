//! Deployments and ReplicaSets.

use serde_json::{Value, json};

use super::{absent, empty, normalise, pod, zero};
use crate::access::Access as _;

/// Share of the replicas that a rolling update may add or miss.
const ROLLING_SHARE: &str = "25%";

pub(crate) fn deployment(deployment: &mut Value) {
    normalise(deployment);
    empty(deployment, "spec");
    empty(deployment, "status");
    let spec = &mut deployment["spec"];
    absent(spec, "replicas", 1);
    empty(spec, "strategy");
    let strategy = &mut spec["strategy"];
    zero(strategy, "type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        empty(strategy, "rollingUpdate");
        absent(&mut strategy["rollingUpdate"], "maxUnavailable", ROLLING_SHARE);
        absent(&mut strategy["rollingUpdate"], "maxSurge", ROLLING_SHARE);
    }
    absent(spec, "revisionHistoryLimit", 10);
    absent(spec, "progressDeadlineSeconds", 600);
    template(spec);
}

pub(crate) fn replica_set(set: &mut Value) {
    normalise(set);
    empty(set, "spec");
    absent(set, "status", json!({}));
    absent(&mut set["status"], "replicas", 0);
    let spec = &mut set["spec"];
    absent(spec, "replicas", 1);
    template(spec);
}

fn template(spec: &mut Value) {
    empty(spec, "template");
    let template = &mut spec["template"];
    empty(template, "metadata");
    empty(template, "spec");
    pod::spec(&mut template["spec"]);
}
