//! ServiceAccount: the identity of pods.

use super::Hooks;
use crate::{columns, validate};

pub(super) const HOOKS: Hooks = Hooks {
    validate_create: Some(validate::plain::service_account),
    validate_update: Some(validate::plain::service_account_update),
    columns: columns::plain::SERVICE_ACCOUNT,
    row: columns::plain::service_account,
    ..Hooks::NONE
};
