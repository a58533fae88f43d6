//! Leases: durations and counts.

use serde_json::Value;

use super::{NOT_NEGATIVE, faults};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const STRATEGIES: [&str; 1] = ["OldestEmulationVersion"];

pub(crate) fn create(lease: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &lease["spec"];
    let at = Path::new("spec");
    if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.push(at.child("leaseDurationSeconds").invalid(seconds, "must be greater than 0"));
    }
    if let Some(count) = spec.int("leaseTransitions").filter(|count| *count < 0) {
        errors.push(at.child("leaseTransitions").invalid(count, NOT_NEGATIVE));
    }
    let strategy = spec.text("strategy");
    let strategy_at = at.child("strategy").child("strategy");
    if strategy.contains('/') {
        faults(&strategy_at, strategy, names::qualified_name(strategy), &mut errors);
    } else if !strategy.is_empty() && !STRATEGIES.contains(&strategy) {
        errors.push(strategy_at.not_supported(strategy, &STRATEGIES));
    }
    if !spec.text("preferredHolder").is_empty() && strategy.is_empty() {
        let text = "may only be specified if `strategy` is defined";
        errors.push(at.child("preferredHolder").forbidden(text));
    }
    errors
}

pub(crate) fn update(new: &Value, _: &Value) -> Vec<Error> {
    create(new)
}
