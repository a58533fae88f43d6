//! PodDisruptionBudgets.

use serde_json::Value;

use super::{absent, empty, normalise, within};

pub(crate) fn budget(budget: &mut Value) {
    normalise(budget);
    empty(budget, "spec");
    empty(budget, "status");
    within(budget, "status", |status| {
        for count in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            absent(status, count, 0);
        }
    });
}
