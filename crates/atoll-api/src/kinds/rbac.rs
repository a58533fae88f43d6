//! Roles and their bindings.

use super::Hooks;
use crate::{columns, defaults};

pub(super) const ROLE_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::role),
    columns: columns::CREATED_AT,
    row: columns::created_at_row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const CLUSTER_ROLE_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::role),
    columns: columns::CREATED_AT,
    row: columns::created_at_row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const ROLE_BINDING_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::role_binding),
    columns: columns::rbac::BINDING,
    row: columns::rbac::binding,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const CLUSTER_ROLE_BINDING_HOOKS: Hooks =
    Hooks { default: Some(defaults::rbac::cluster_role_binding), ..ROLE_BINDING_HOOKS };
