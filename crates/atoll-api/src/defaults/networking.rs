//! Ingress, NetworkPolicy, and the addresses of Services.

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, within};
use crate::access::Access as _;

pub(crate) fn ingress(ingress: &mut Value) {
    normalise(ingress);
    empty(ingress, "spec");
    empty(ingress, "status");
    within(ingress, "status", |status| empty(status, "loadBalancer"));
}

pub(crate) fn ingress_class(class: &mut Value) {
    normalise(class);
    within(class, "spec", |spec| {
        within(spec, "parameters", |parameters| absent(parameters, "scope", "Cluster"));
    });
}

pub(crate) fn network_policy(policy: &mut Value) {
    normalise(policy);
    empty(policy, "spec");
    within(policy, "spec", |spec| {
        empty(spec, "podSelector");
        for direction in ["ingress", "egress"] {
            for rule in each(spec, direction) {
                each(rule, "ports").for_each(|port| absent(port, "protocol", "TCP"));
            }
        }
        let both = !spec.items("egress").is_empty();
        let types = if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        absent(spec, "policyTypes", types);
    });
}
