//! CustomResourceDefinition.

use super::Hooks;

pub(super) const DEFINITION_HOOKS: Hooks = Hooks::NONE;
