//! Lease: who holds something, and since when.

use super::Hooks;
use crate::{columns, defaults};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::plain::lease),
    columns: columns::plain::LEASE,
    row: columns::plain::lease,
    create_on_update: true,
    unconditional_update: false,
    ..Hooks::NONE
};
