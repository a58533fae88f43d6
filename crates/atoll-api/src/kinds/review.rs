//! Reviews: a create is a question, its answer the status; nothing is stored.

use super::{Hooks, prepare};

pub(super) const HOOKS: Hooks = Hooks { prepare_create: Some(prepare::drop_status), ..Hooks::NONE };

pub(super) const TOKEN_REVIEW_HOOKS: Hooks = HOOKS;

pub(super) const ACCESS_HOOKS: Hooks = HOOKS;

pub(super) const SELF_ACCESS_HOOKS: Hooks = HOOKS;

pub(super) const LOCAL_ACCESS_HOOKS: Hooks = HOOKS;

pub(super) const RULES_HOOKS: Hooks = HOOKS;
