//! Ingress, NetworkPolicy, and the addresses of Services.

use super::Hooks;

pub(super) const INGRESS_HOOKS: Hooks = Hooks::NONE;
pub(super) const INGRESS_CLASS_HOOKS: Hooks = Hooks::NONE;
pub(super) const NETWORK_POLICY_HOOKS: Hooks = Hooks::NONE;
pub(super) const SERVICE_CIDR_HOOKS: Hooks = Hooks::NONE;
pub(super) const IP_ADDRESS_HOOKS: Hooks = Hooks::NONE;
