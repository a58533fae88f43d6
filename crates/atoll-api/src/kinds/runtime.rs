//! RuntimeClass.

use super::Hooks;

pub(super) const RUNTIME_CLASS_HOOKS: Hooks = Hooks::NONE;
