//! ServiceAccount: the identity of pods.

use super::Hooks;
use crate::columns;

pub(super) const HOOKS: Hooks = Hooks {
    columns: columns::plain::SERVICE_ACCOUNT,
    row: columns::plain::service_account,
    ..Hooks::NONE
};
