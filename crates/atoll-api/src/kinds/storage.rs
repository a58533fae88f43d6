//! Volumes, claims, classes and what CSI drivers tell of themselves.

use super::Hooks;

pub(super) const VOLUME_HOOKS: Hooks = Hooks::NONE;
pub(super) const CLAIM_HOOKS: Hooks = Hooks::NONE;
pub(super) const CLASS_HOOKS: Hooks = Hooks::NONE;
pub(super) const CSI_DRIVER_HOOKS: Hooks = Hooks::NONE;
pub(super) const CSI_NODE_HOOKS: Hooks = Hooks::NONE;
pub(super) const CSI_CAPACITY_HOOKS: Hooks = Hooks::NONE;
pub(super) const ATTACHMENT_HOOKS: Hooks = Hooks::NONE;
pub(super) const ATTRIBUTES_CLASS_HOOKS: Hooks = Hooks::NONE;
