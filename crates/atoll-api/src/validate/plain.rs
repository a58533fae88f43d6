//! Kinds with a rule or two: ServiceAccount, PriorityClass, ControllerRevision.

use serde_json::Value;

use super::immutable;
use crate::access::Access as _;
use crate::field::{Error, Path};

/// Above it stand the priorities of the system's own pods.
const USER_PRIORITY_MAX: i64 = 1_000_000_000;

pub(crate) fn service_account(_: &Value) -> Vec<Error> {
    Vec::new()
}

pub(crate) fn service_account_update(_: &Value, _: &Value) -> Vec<Error> {
    Vec::new()
}

pub(crate) fn priority_class(class: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let value = class.int("value").unwrap_or(0);
    let name = class["metadata"].text("name");
    let known = matches!(
        (name, value),
        ("system-node-critical", 2_000_001_000) | ("system-cluster-critical", 2_000_000_000)
    );
    if name.starts_with("system-") {
        if !known || class.flag("globalDefault") {
            errors.push(Path::new("metadata").child("name").forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. \
                 error: {name} is not a known system priority class"
            )));
        }
    } else if value > USER_PRIORITY_MAX {
        errors.push(Path::new("value").forbidden(format!(
            "maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"
        )));
    }
    if let Some(policy) = class.opt_text("preemptionPolicy") {
        preemption_policy(&Path::new("preemptionPolicy"), policy, &mut errors);
    }
    errors
}

pub(crate) fn priority_class_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    if new.int("value").unwrap_or(0) != old.int("value").unwrap_or(0) {
        errors.push(Path::new("value").forbidden("may not be changed in an update."));
    }
    let at = Path::new("preemptionPolicy");
    immutable(&at, &new["preemptionPolicy"], &old["preemptionPolicy"], &mut errors);
    errors
}

pub(crate) fn controller_revision(revision: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    if !revision.has("data") {
        errors.push(Path::new("data").required("data is mandatory"));
    }
    let number = revision.int("revision").unwrap_or(0);
    super::not_negative(&Path::new("revision"), number, &mut errors);
    errors
}

pub(crate) fn controller_revision_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = controller_revision(new);
    immutable(&Path::new("data"), &new["data"], &old["data"], &mut errors);
    errors
}

pub(crate) fn preemption_policy(at: &Path, policy: &str, errors: &mut Vec<Error>) {
    super::one_of(at, policy, &["PreemptLowerPriority", "Never"], "", errors);
}
