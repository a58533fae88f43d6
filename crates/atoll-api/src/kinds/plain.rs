//! Kinds that are little more than a row: PriorityClass, ControllerRevision, ComponentStatus.

use serde_json::Value;

use super::{Hooks, metadata};
use crate::{columns, defaults, validate};

pub(super) const PRIORITY_CLASS_HOOKS: Hooks = Hooks {
    default: Some(defaults::plain::priority_class),
    prepare_create: Some(metadata::start_generation),
    validate_create: Some(validate::plain::priority_class),
    validate_update: Some(validate::plain::priority_class_update),
    columns: columns::plain::PRIORITY_CLASS,
    row: columns::plain::priority_class,
    ..Hooks::NONE
};

pub(super) const CONTROLLER_REVISION_HOOKS: Hooks = Hooks {
    default: Some(revision_default),
    validate_create: Some(validate::plain::controller_revision),
    validate_update: Some(validate::plain::controller_revision_update),
    columns: columns::plain::CONTROLLER_REVISION,
    row: columns::plain::controller_revision,
    ..Hooks::NONE
};

/// Its objects are computed when somebody reads them.
pub(super) const COMPONENT_STATUS_HOOKS: Hooks = Hooks {
    columns: columns::plain::COMPONENT_STATUS,
    row: columns::plain::component_status,
    ..Hooks::NONE
};

/// `revision` is always written, also when it is zero.
fn revision_default(revision: &mut Value) {
    defaults::normalise(revision);
    defaults::absent(revision, "revision", 0);
}
