//! APIService: another server behind ours.

use super::Hooks;

pub(super) const API_SERVICE_HOOKS: Hooks = Hooks::NONE;
