//! Configurations of admission webhooks.

use serde_json::Value;

use super::{Hooks, metadata};
use crate::access::Access as _;
use crate::{columns, defaults, validate};

pub(super) const MUTATING_WEBHOOK_HOOKS: Hooks = Hooks {
    default: Some(defaults::webhooks::mutating),
    validate_create: Some(validate::webhooks::mutating),
    validate_update: Some(validate::webhooks::mutating_update),
    ..VALIDATING_WEBHOOK_HOOKS
};

pub(super) const VALIDATING_WEBHOOK_HOOKS: Hooks = Hooks {
    default: Some(defaults::webhooks::validating),
    prepare_create: Some(metadata::start_generation),
    prepare_update: Some(update),
    validate_create: Some(validate::webhooks::validating),
    validate_update: Some(validate::webhooks::validating_update),
    warnings: Some(warnings),
    columns: columns::webhooks::COLUMNS,
    row: columns::webhooks::row,
    unconditional_update: false,
    ..Hooks::NONE
};

fn update(new: &mut Value, old: &Value) {
    if new.get("webhooks") != old.get("webhooks") {
        metadata::raise_generation(new, old);
    }
}

/// Resources that no webhook sees: questions whose answers decide who may do anything at all.
const UNSEEN: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// Whether webhooks are never asked about a resource.
#[must_use]
pub fn is_unseen(group: &str, resource: &str) -> bool {
    UNSEEN.contains(&(group, resource))
}

fn warnings(configuration: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, webhook) in configuration.items("webhooks").iter().enumerate() {
        for (at, rule) in webhook.items("rules").iter().enumerate() {
            for name in unseen_names(rule) {
                warnings.push(format!(
                    "webhooks[{index}].rules[{at}]: {name} is excluded from admission webhooks; \
                     this rule will have no effect"
                ));
            }
        }
    }
    warnings
}

/// The unseen resources that a rule names; one with an asterisk may mean others.
fn unseen_names(rule: &Value) -> Vec<String> {
    let any = |field: &str| rule.items(field).iter().any(|one| one == "*");
    if any("apiGroups") || any("apiVersions") || any("resources") {
        return Vec::new();
    }
    let mut names = Vec::new();
    for group in rule.items("apiGroups").iter().filter_map(Value::as_str) {
        for resource in rule.items("resources").iter().filter_map(Value::as_str) {
            let name = format!("{resource}.{group}");
            if is_unseen(group, resource) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}
