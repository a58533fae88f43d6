//! Configurations of admission webhooks.

use super::Hooks;

pub(super) const MUTATING_WEBHOOK_HOOKS: Hooks = Hooks::NONE;
pub(super) const VALIDATING_WEBHOOK_HOOKS: Hooks = Hooks::NONE;
