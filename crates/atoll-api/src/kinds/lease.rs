//! Lease: who holds something, and since when.

use super::Hooks;
use crate::{columns, defaults, validate};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::plain::lease),
    validate_create: Some(validate::lease::create),
    validate_update: Some(validate::lease::update),
    columns: columns::plain::LEASE,
    row: columns::plain::lease,
    create_on_update: true,
    unconditional_update: false,
    ..Hooks::NONE
};
