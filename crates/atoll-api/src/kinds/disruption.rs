//! PodDisruptionBudget: how many pods may be away at once.

use serde_json::{Value, json};

use super::{Hooks, prepare};
use crate::{columns, defaults, validate};

pub(super) const DISRUPTION_BUDGET_HOOKS: Hooks = Hooks {
    default: Some(defaults::disruption::budget),
    prepare_create: Some(create),
    prepare_update: Some(prepare::update_with_generation),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::disruption::budget),
    validate_update: Some(validate::disruption::budget_update),
    validate_status_update: Some(validate::disruption::status_update),
    columns: columns::disruption::BUDGET,
    row: columns::disruption::budget,
    unconditional_update: false,
    ..Hooks::NONE
};

fn create(budget: &mut Value) {
    prepare::create_with_generation(budget);
    let status = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0,
        "expectedPods": 0});
    prepare::put(budget, "status", Some(status));
}
