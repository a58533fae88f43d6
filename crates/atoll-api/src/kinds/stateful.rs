//! StatefulSet and DaemonSet: pods with an identity, pods of every node.

use super::Hooks;

pub(super) const STATEFUL_SET_HOOKS: Hooks = Hooks::NONE;
pub(super) const DAEMON_SET_HOOKS: Hooks = Hooks::NONE;
