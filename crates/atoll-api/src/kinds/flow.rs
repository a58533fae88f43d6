//! FlowSchema and PriorityLevelConfiguration.

use super::Hooks;

pub(super) const FLOW_SCHEMA_HOOKS: Hooks = Hooks::NONE;
pub(super) const PRIORITY_LEVEL_HOOKS: Hooks = Hooks::NONE;
