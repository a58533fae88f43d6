//! Dynamic resource allocation: devices and claims to them.

use super::Hooks;

pub(super) const DEVICE_CLASS_HOOKS: Hooks = Hooks::NONE;
pub(super) const RESOURCE_CLAIM_HOOKS: Hooks = Hooks::NONE;
pub(super) const CLAIM_TEMPLATE_HOOKS: Hooks = Hooks::NONE;
pub(super) const RESOURCE_SLICE_HOOKS: Hooks = Hooks::NONE;
