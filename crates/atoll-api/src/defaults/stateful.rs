//! StatefulSets and DaemonSets.

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, storage, within, workload, zero};
use crate::access::Access as _;

pub(crate) fn stateful_set(set: &mut Value) {
    normalise(set);
    empty(set, "spec");
    within(set, "spec", |spec| {
        workload::template(spec);
        zero(spec, "podManagementPolicy", "OrderedReady");
        empty(spec, "updateStrategy");
        within(spec, "updateStrategy", stateful_strategy);
        empty(spec, "persistentVolumeClaimRetentionPolicy");
        within(spec, "persistentVolumeClaimRetentionPolicy", |policy| {
            zero(policy, "whenDeleted", "Retain");
            zero(policy, "whenScaled", "Retain");
        });
        absent(spec, "replicas", 1);
        absent(spec, "revisionHistoryLimit", 10);
        absent(spec, "serviceName", "");
        each(spec, "volumeClaimTemplates").for_each(claim_template);
    });
    empty(set, "status");
    within(set, "status", |status| {
        absent(status, "replicas", 0);
        absent(status, "availableReplicas", 0);
    });
}

pub(crate) fn daemon_set(set: &mut Value) {
    normalise(set);
    empty(set, "spec");
    within(set, "spec", |spec| {
        workload::template(spec);
        empty(spec, "updateStrategy");
        within(spec, "updateStrategy", daemon_strategy);
        absent(spec, "revisionHistoryLimit", 10);
    });
    empty(set, "status");
    within(set, "status", |status| {
        for (count, zero) in daemon_set_status().as_object().into_iter().flatten() {
            absent(status, count, zero.clone());
        }
    });
}

/// The counts that are always written.
pub(crate) fn daemon_set_status() -> Value {
    json!({
        "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
        "numberReady": 0,
    })
}

/// A partition is filled in only where there is a `rollingUpdate`, and one of those only where
/// no type was given.
fn stateful_strategy(strategy: &mut Value) {
    if strategy.text("type").is_empty() {
        zero(strategy, "type", "RollingUpdate");
        empty(strategy, "rollingUpdate");
    }
    if strategy.text("type") == "RollingUpdate" {
        within(strategy, "rollingUpdate", |rolling| absent(rolling, "partition", 0));
    }
}

fn daemon_strategy(strategy: &mut Value) {
    zero(strategy, "type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        empty(strategy, "rollingUpdate");
        within(strategy, "rollingUpdate", |rolling| {
            absent(rolling, "maxUnavailable", 1);
            absent(rolling, "maxSurge", 0);
        });
    }
}

fn claim_template(claim: &mut Value) {
    zero(claim, "apiVersion", "v1");
    zero(claim, "kind", "PersistentVolumeClaim");
    storage::claim(claim);
}
