//! Roles and their bindings.

use super::Hooks;
use crate::{columns, defaults, validate};

pub(super) const ROLE_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::role),
    validate_create: Some(validate::rbac::role),
    validate_update: Some(validate::rbac::role_update),
    columns: columns::CREATED_AT,
    row: columns::created_at_row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const CLUSTER_ROLE_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::role),
    validate_create: Some(validate::rbac::cluster_role),
    validate_update: Some(validate::rbac::cluster_role_update),
    columns: columns::CREATED_AT,
    row: columns::created_at_row,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const ROLE_BINDING_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::role_binding),
    validate_create: Some(validate::rbac::role_binding),
    validate_update: Some(validate::rbac::role_binding_update),
    columns: columns::rbac::BINDING,
    row: columns::rbac::binding,
    create_on_update: true,
    ..Hooks::NONE
};

pub(super) const CLUSTER_ROLE_BINDING_HOOKS: Hooks = Hooks {
    default: Some(defaults::rbac::cluster_role_binding),
    validate_create: Some(validate::rbac::cluster_role_binding),
    validate_update: Some(validate::rbac::cluster_role_binding_update),
    ..ROLE_BINDING_HOOKS
};
