//! PodDisruptionBudget: how many pods may be away at once.

use super::Hooks;

pub(super) const DISRUPTION_BUDGET_HOOKS: Hooks = Hooks::NONE;
