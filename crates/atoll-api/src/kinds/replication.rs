//! ReplicationController and PodTemplate.

use super::Hooks;

pub(super) const REPLICATION_CONTROLLER_HOOKS: Hooks = Hooks::NONE;
pub(super) const POD_TEMPLATE_HOOKS: Hooks = Hooks::NONE;
