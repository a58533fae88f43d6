//! ResourceQuota and LimitRange: what a namespace may use.
//!
//! Both are pure here: what an object counts for ([`usage`]), which quotas it falls under
//! ([`scopes`]), and what a LimitRange makes of it ([`limits`]). The API server charges in the
//! transaction of the object, a controller counts anew.

pub mod amounts;
pub mod limits;
pub mod scopes;
#[cfg(test)]
mod tests;
pub mod usage;

use serde_json::{Value, json};

use super::{Hooks, prepare};
use crate::{columns, defaults, validate};
use amounts::Amounts;

pub(super) const RESOURCE_QUOTA_HOOKS: Hooks = Hooks {
    default: Some(defaults::quota::resource_quota),
    prepare_create: Some(start),
    prepare_update: Some(prepare::keep_status),
    prepare_status_update: Some(prepare::keep_spec),
    validate_create: Some(validate::quota::resource_quota),
    validate_update: Some(validate::quota::resource_quota_update),
    validate_status_update: Some(validate::quota::resource_quota_status),
    columns: columns::quota::RESOURCE_QUOTA,
    row: columns::quota::resource_quota,
    ..Hooks::NONE
};

pub(super) const LIMIT_RANGE_HOOKS: Hooks = Hooks {
    default: Some(defaults::quota::limit_range),
    validate_create: Some(validate::quota::limit_range),
    validate_update: Some(validate::quota::limit_range_update),
    ..Hooks::NONE
};

/// Go always writes the status.
fn start(quota: &mut Value) {
    prepare::put(quota, "status", Some(json!({})));
}

/// The object's plural and group as quotas name it: `count/deployments.apps`, `count/pods`.
#[must_use]
pub fn count_name(resource: &str, group: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// What of a limit is exceeded when this much is asked for on top of what is used.
#[must_use]
pub fn exceeded(hard: &Amounts, used: &Amounts, asked: &Amounts) -> Vec<String> {
    asked
        .iter()
        .filter(|(name, amount)| {
            let total = used.get(*name).copied().map_or(**amount, |used| used + **amount);
            hard.get(*name).is_some_and(|hard| total > *hard)
        })
        .map(|(name, _)| name.clone())
        .collect()
}
