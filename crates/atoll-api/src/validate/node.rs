//! Nodes: taints, networks, capacities.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{faults, resources};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn create(node: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    // Upstream says metadata where it means spec; clients see its words.
    taints(&Path::new("metadata").child("taints"), node["spec"].items("taints"), &mut errors);
    capacities(node, &mut errors);
    pod_networks(node, &mut errors);
    errors
}

pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    common_update(new, old, &mut errors);
    errors
}

pub(crate) fn status_update(new: &Value, old: &Value) -> Vec<Error> {
    update(new, old)
}

fn common_update(new: &Value, old: &Value, errors: &mut Vec<Error>) {
    capacities(new, errors);
    let spec_at = Path::new("spec");
    let mut seen = BTreeSet::new();
    for (index, address) in new["status"].items("addresses").iter().enumerate() {
        if !seen.insert((address.text("type"), address.text("address"))) {
            let at = Path::new("status").child("addresses").index(index);
            errors.push(at.duplicate(address.clone()));
        }
    }
    let (is, was) = (&new["spec"], &old["spec"]);
    if !was.items("podCIDRs").is_empty() && was.items("podCIDRs") != is.items("podCIDRs") {
        let text = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(spec_at.child("podCIDRs").forbidden(text));
    }
    if !was.text("providerID").is_empty() && was.text("providerID") != is.text("providerID") {
        let text = "node updates may not change providerID except from \"\" to valid";
        errors.push(spec_at.child("providerID").forbidden(text));
    }
    taints(&Path::new("metadata").child("taints"), is.items("taints"), errors);
    if is.text("externalID") != was.text("externalID") {
        errors.push(spec_at.child("externalID").forbidden("may not be updated"));
    }
}

/// What a taint does to pods that do not tolerate it; a toleration may leave it open.
pub(crate) fn taint_effect(at: &Path, effect: &str, errors: &mut Vec<Error>) {
    if effect.is_empty() {
        errors.push(at.required(""));
    } else if !EFFECTS.contains(&effect) {
        errors.push(at.not_supported(effect, &EFFECTS));
    }
}

fn taints(at: &Path, taints: &[Value], errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let at = at.index(index);
        let (key, value, effect) = (taint.text("key"), taint.text("value"), taint.text("effect"));
        faults(&at.child("key"), key, names::qualified_name(key), errors);
        let value_faults = names::label_value(value);
        if !value_faults.is_empty() {
            errors.push(at.child("value").invalid(value, value_faults.join(";")));
        }
        taint_effect(&at.child("effect"), effect, errors);
        if !seen.insert((key, effect)) {
            let mut error = at.duplicate(taint.clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn capacities(node: &Value, errors: &mut Vec<Error>) {
    for field in ["capacity", "allocatable"] {
        let at = Path::new("status").child(field);
        for (resource, amount) in node["status"].fields(field).into_iter().flatten() {
            resources::amount(&at.child(resource), resource, amount, errors);
        }
    }
}

fn pod_networks(node: &Value, errors: &mut Vec<Error>) {
    let at = Path::new("spec").child("podCIDRs");
    let networks = node["spec"].items("podCIDRs");
    for (index, network) in networks.iter().enumerate() {
        let network = network.as_str().unwrap_or("");
        faults(&at.index(index), network, names::cidr(network), errors);
    }
    let sixes = networks.iter().filter(|one| one.as_str().unwrap_or("").contains(':')).count();
    if networks.len() > 2 || (networks.len() == 2 && sixes != 1) {
        errors.push(at.invalid(networks, "may specify no more than one CIDR for each IP family"));
    }
}
