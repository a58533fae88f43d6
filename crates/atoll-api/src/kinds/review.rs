//! Reviews: a create is a question, its answer the status; nothing is stored.

use super::{Hooks, prepare};
use crate::validate;

pub(super) const HOOKS: Hooks = Hooks {
    prepare_create: Some(prepare::drop_status),
    validate_create: Some(validate::review::self_subject),
    ..Hooks::NONE
};

pub(super) const TOKEN_REVIEW_HOOKS: Hooks =
    Hooks { validate_create: Some(validate::review::token), ..HOOKS };

pub(super) const ACCESS_HOOKS: Hooks =
    Hooks { validate_create: Some(validate::review::access), ..HOOKS };

pub(super) const SELF_ACCESS_HOOKS: Hooks =
    Hooks { validate_create: Some(validate::review::self_access), ..HOOKS };

pub(super) const LOCAL_ACCESS_HOOKS: Hooks =
    Hooks { validate_create: Some(validate::review::local_access), ..HOOKS };

pub(super) const RULES_HOOKS: Hooks =
    Hooks { validate_create: Some(validate::review::rules), ..HOOKS };
