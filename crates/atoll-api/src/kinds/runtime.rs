//! RuntimeClass: how the containers of a pod are run.

use super::Hooks;
use crate::{columns, validate};

pub(super) const RUNTIME_CLASS_HOOKS: Hooks = Hooks {
    validate_create: Some(validate::runtime::runtime_class),
    validate_update: Some(validate::runtime::runtime_class_update),
    columns: columns::runtime::RUNTIME_CLASS,
    row: columns::runtime::runtime_class,
    create_on_update: true,
    unconditional_update: false,
    ..Hooks::NONE
};
