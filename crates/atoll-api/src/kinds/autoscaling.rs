//! HorizontalPodAutoscaler, in two versions.

use super::Hooks;

pub(super) const AUTOSCALER_HOOKS: Hooks = Hooks::NONE;
