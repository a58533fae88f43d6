//! Admission policies in CEL, and their bindings.

use super::Hooks;

pub(super) const MUTATING_POLICY_HOOKS: Hooks = Hooks::NONE;
pub(super) const MUTATING_BINDING_HOOKS: Hooks = Hooks::NONE;
pub(super) const VALIDATING_POLICY_HOOKS: Hooks = Hooks::NONE;
pub(super) const VALIDATING_BINDING_HOOKS: Hooks = Hooks::NONE;
