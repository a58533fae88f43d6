//! Job and CronJob: work that ends.

use super::Hooks;

pub(super) const JOB_HOOKS: Hooks = Hooks::NONE;
pub(super) const CRON_JOB_HOOKS: Hooks = Hooks::NONE;
