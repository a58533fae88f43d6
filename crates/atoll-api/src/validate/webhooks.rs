//! Configurations of admission webhooks.

mod client;
mod conditions;

use serde_json::{Value, json};

use super::label_selector;
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

pub(crate) use client::client_config;

const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATIONS: [&str; 2] = ["IfNeeded", "Never"];
const NO_SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
const SIDE_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
/// Seconds that a webhook may ask for.
const TIMEOUT_SECONDS_MAX: i64 = 30;

/// What an update must not make worse: a configuration that was stored before a rule existed
/// may go on breaking it.
#[derive(Debug, Clone, Copy)]
struct Strictness {
    no_side_effects: bool,
    known_review_version: bool,
    unique_names: bool,
    selectors: bool,
    conditions: bool,
}

impl Strictness {
    const NEW: Self = Self {
        no_side_effects: true,
        known_review_version: true,
        unique_names: true,
        selectors: true,
        conditions: true,
    };

    fn after(old: &Value, new: &Value) -> Self {
        let (was, is) = (old.items("webhooks"), new.items("webhooks"));
        let names: Vec<&str> = was.iter().map(|hook| hook.text("name")).collect();
        let known = |hook: &Value| {
            let versions = hook.items("admissionReviewVersions");
            versions.is_empty() || versions.iter().any(is_known_version)
        };
        let same_conditions = was.len() == is.len()
            && was
                .iter()
                .zip(is)
                .all(|(old, new)| old.items("matchConditions") == new.items("matchConditions"));
        Self {
            no_side_effects: was
                .iter()
                .all(|hook| NO_SIDE_EFFECTS.contains(&hook.text("sideEffects"))),
            known_review_version: was.iter().all(known),
            unique_names: (1..names.len()).all(|at| !names[..at].contains(&names[at])),
            selectors: was.iter().all(|hook| selectors(&Path::root(), hook).is_empty()),
            conditions: !same_conditions,
        }
    }
}

pub(crate) fn validating(configuration: &Value) -> Vec<Error> {
    configuration_faults(configuration, Strictness::NEW)
}

pub(crate) fn validating_update(new: &Value, old: &Value) -> Vec<Error> {
    configuration_faults(new, Strictness::after(old, new))
}

pub(crate) fn mutating(configuration: &Value) -> Vec<Error> {
    validating(configuration)
}

pub(crate) fn mutating_update(new: &Value, old: &Value) -> Vec<Error> {
    validating_update(new, old)
}

fn configuration_faults(configuration: &Value, strict: Strictness) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (index, hook) in configuration.items("webhooks").iter().enumerate() {
        let at = Path::new("webhooks").index(index);
        webhook(&at, hook, strict, &mut errors);
        review_versions(&at, hook, strict, &mut errors);
        let name = hook.text("name");
        if strict.unique_names && !name.is_empty() {
            if seen.contains(&name) {
                errors.push(at.child("name").duplicate(name));
            }
            seen.push(name);
        }
    }
    errors
}

fn webhook(at: &Path, hook: &Value, strict: Strictness, errors: &mut Vec<Error>) {
    errors.extend(fully_qualified_name(&at.child("name"), hook.text("name")));
    for (index, one) in hook.items("rules").iter().enumerate() {
        rule_with_operations(&at.child("rules").index(index), one, errors);
    }
    optional(at, hook, "failurePolicy", &FAILURE_POLICIES, errors);
    optional(at, hook, "matchPolicy", &MATCH_POLICIES, errors);
    side_effects(at, hook, strict, errors);
    if let Some(seconds) = hook.int("timeoutSeconds")
        && !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds)
    {
        let text = "the timeout value must be between 1 and 30 seconds";
        errors.push(at.child("timeoutSeconds").invalid(seconds, text));
    }
    if strict.selectors {
        errors.extend(selectors(at, hook));
    }
    optional(at, hook, "reinvocationPolicy", &REINVOCATIONS, errors);
    client_config(&at.child("clientConfig"), &hook["clientConfig"], errors);
    if strict.conditions {
        conditions::match_conditions(
            &at.child("matchConditions"),
            hook.items("matchConditions"),
            errors,
        );
    }
}

fn optional(at: &Path, hook: &Value, field: &str, allowed: &[&str], errors: &mut Vec<Error>) {
    if let Some(value) = hook.opt_text(field)
        && !allowed.contains(&value)
    {
        errors.push(at.child(field).not_supported(value, allowed));
    }
}

fn side_effects(at: &Path, hook: &Value, strict: Strictness, errors: &mut Vec<Error>) {
    let allowed: &[&str] = if strict.no_side_effects { &NO_SIDE_EFFECTS } else { &SIDE_EFFECTS };
    let at = at.child("sideEffects");
    match hook.opt_text("sideEffects") {
        None => errors.push(at.required(format!("must specify one of {}", allowed.join(", ")))),
        Some(value) if !allowed.contains(&value) => errors.push(at.not_supported(value, allowed)),
        Some(_) => {}
    }
}

fn selectors(at: &Path, hook: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(&at.child(field), &hook[field], &mut errors);
    }
    errors
}

fn is_known_version(version: &Value) -> bool {
    version.as_str().is_some_and(|version| REVIEW_VERSIONS.contains(&version))
}

fn review_versions(at: &Path, hook: &Value, strict: Strictness, errors: &mut Vec<Error>) {
    let at = at.child("admissionReviewVersions");
    let versions = hook.items("admissionReviewVersions");
    if versions.is_empty() {
        errors.push(at.required(format!("must specify one of {}", REVIEW_VERSIONS.join(", "))));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        let text = version.as_str().unwrap_or("");
        if versions[..index].contains(version) {
            errors.push(at.index(index).invalid(text, "duplicate version"));
            continue;
        }
        super::faults(&at.index(index), text, names::dns1035_label(text), errors);
    }
    if strict.known_review_version && !versions.iter().any(is_known_version) {
        let text = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.push(at.invalid(json!(versions), text));
    }
}

/// A name of at least three segments: `policy.example.com`.
fn fully_qualified_name(at: &Path, name: &str) -> Vec<Error> {
    if name.is_empty() {
        return vec![at.required("")];
    }
    let faults = names::dns1123_subdomain(name);
    if !faults.is_empty() {
        return vec![at.invalid(name, faults.join(","))];
    }
    if name.split('.').count() < 3 {
        let text = "should be a domain with at least three segments separated by dots";
        return vec![at.invalid(name, text)];
    }
    Vec::new()
}

/// admissionregistration.k8s.io/v1 `RuleWithOperations`.
pub(crate) fn rule_with_operations(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    let operations = rule.items("operations");
    let own = at.child("operations");
    if operations.is_empty() {
        errors.push(own.required(""));
    }
    if operations.len() > 1 && has_wildcard(operations) {
        let text = "if '*' is present, must not specify other operations";
        errors.push(own.invalid(json!(operations), text));
    }
    for (index, operation) in operations.iter().enumerate() {
        let text = operation.as_str().unwrap_or("");
        if !OPERATIONS.contains(&text) {
            errors.push(own.index(index).not_supported(text, &OPERATIONS));
        }
    }
    rule_of(at, rule, errors);
}

fn rule_of(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let (own, values) = (at.child(field), rule.items(field));
        if values.is_empty() {
            errors.push(own.required(""));
        }
        if values.len() > 1 && has_wildcard(values) {
            let text = format!("if '*' is present, must not specify other {what}");
            errors.push(own.invalid(json!(values), text));
        }
    }
    for (index, version) in rule.items("apiVersions").iter().enumerate() {
        if version == "" {
            errors.push(at.child("apiVersions").index(index).required(""));
        }
    }
    resources(&at.child("resources"), rule.items("resources"), errors);
    optional(at, rule, "scope", &SCOPES, errors);
}

fn has_wildcard(values: &[Value]) -> bool {
    values.iter().any(|value| value == "*")
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`: one must not cover another.
fn resources(at: &Path, resources: &[Value], errors: &mut Vec<Error>) {
    if resources.is_empty() {
        errors.push(at.required(""));
    }
    let (mut whole, mut parts): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut plain = false;
    for (index, resource) in resources.iter().enumerate() {
        let text = resource.as_str().unwrap_or("");
        let at = at.index(index);
        if text.is_empty() {
            errors.push(at.required(""));
            continue;
        }
        let Some((resource, part)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if whole.contains(&resource) {
            let why = format!("if '{resource}/*' is present, must not specify {text}");
            errors.push(at.invalid(text, why));
        }
        if parts.contains(&part) {
            let why = format!("if '*/{part}' is present, must not specify {text}");
            errors.push(at.invalid(text, why));
        }
        if part == "*" {
            whole.push(resource);
        }
        if resource == "*" {
            parts.push(part);
        }
    }
    if resources.len() > 1 && resources.iter().any(|one| one == "*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        errors.push(at.invalid(json!(resources), why));
    }
    if plain && has_wildcard(resources) {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(at.invalid(json!(resources), why));
    }
}

#[cfg(test)]
mod tests;
