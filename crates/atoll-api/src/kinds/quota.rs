//! ResourceQuota and LimitRange: what a namespace may use.

use super::Hooks;

pub(super) const RESOURCE_QUOTA_HOOKS: Hooks = Hooks::NONE;
pub(super) const LIMIT_RANGE_HOOKS: Hooks = Hooks::NONE;
