//! Admission policies in CEL, and their bindings.

mod expressions;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use super::{faults, label_selector, webhooks};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;
use expressions::Checker;

const FAILURE_POLICIES: [&str; 2] = ["Fail", "Ignore"];
const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const REINVOCATIONS: [&str; 2] = ["IfNeeded", "Never"];
const PATCH_TYPES: [&str; 2] = ["ApplyConfiguration", "JSONPatch"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
const NOT_FOUND_ACTIONS: [&str; 2] = ["Deny", "Allow"];
const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
/// Operations that have an object to change.
const MUTATED: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const ANNOTATIONS_MAX: usize = 20;
/// Bytes of an expression that makes an annotation.
const ANNOTATION_BYTES_MAX: usize = 5 * 1024;

pub(crate) fn validating(policy: &Value) -> Vec<Error> {
    validating_spec(policy, true)
}

/// Conditions that were accepted stay accepted.
pub(crate) fn validating_update(new: &Value, old: &Value) -> Vec<Error> {
    validating_spec(new, conditions_changed(new, old))
}

pub(crate) fn mutating(policy: &Value) -> Vec<Error> {
    mutating_spec(policy, true)
}

pub(crate) fn mutating_update(new: &Value, old: &Value) -> Vec<Error> {
    mutating_spec(new, conditions_changed(new, old))
}

fn conditions_changed(new: &Value, old: &Value) -> bool {
    let (new, old) = (&new["spec"], &old["spec"]);
    new["paramKind"] != old["paramKind"]
        || new.items("matchConditions") != old.items("matchConditions")
}

fn validating_spec(policy: &Value, check_conditions: bool) -> Vec<Error> {
    let (at, spec) = (Path::new("spec"), &policy["spec"]);
    let mut errors = Vec::new();
    let mut checker = Checker::new(spec);
    common(&at, spec, check_conditions, &mut checker, &mut errors);
    let (validations, annotations) = (spec.items("validations"), spec.items("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let text = "validations or auditAnnotations must contain at least one item";
        errors.push(at.child("validations").required(text));
        errors.push(at.child("auditAnnotations").required(text));
        return errors;
    }
    for (index, one) in validations.iter().enumerate() {
        validation(&at.child("validations").index(index), one, &checker, &mut errors);
    }
    audit_annotations(&at.child("auditAnnotations"), policy, annotations, &checker, &mut errors);
    errors
}

fn mutating_spec(policy: &Value, check_conditions: bool) -> Vec<Error> {
    let (at, spec) = (Path::new("spec"), &policy["spec"]);
    let mut errors = Vec::new();
    let mut checker = Checker::new(spec);
    common(&at, spec, check_conditions, &mut checker, &mut errors);
    for (index, rule) in spec["matchConstraints"].items("resourceRules").iter().enumerate() {
        let at = at.child("matchConstraints").child("resourceRules").index(index);
        for (position, operation) in rule.items("operations").iter().enumerate() {
            if operation == "DELETE" {
                let at = at.child("operations").index(position);
                errors.push(at.not_supported("DELETE", &MUTATED));
            }
        }
    }
    let mutations = spec.items("mutations");
    if mutations.is_empty() {
        errors.push(at.child("mutations").required("mutations must contain at least one item"));
    }
    for (index, one) in mutations.iter().enumerate() {
        mutation(&at.child("mutations").index(index), one, &checker, &mut errors);
    }
    let at = at.child("reinvocationPolicy");
    super::one_of(&at, spec.text("reinvocationPolicy"), &REINVOCATIONS, "", &mut errors);
    errors
}

/// What both kinds of policies have: also compiles the variables for what comes after.
fn common(
    at: &Path,
    spec: &Value,
    check_conditions: bool,
    checker: &mut Checker,
    errors: &mut Vec<Error>,
) {
    super::one_of(
        &at.child("failurePolicy"),
        spec.text("failurePolicy"),
        &FAILURE_POLICIES,
        "",
        errors,
    );
    if spec.has("paramKind") {
        param_kind(&at.child("paramKind"), &spec["paramKind"], errors);
    }
    let constraints = &spec["matchConstraints"];
    let own = at.child("matchConstraints");
    if constraints.is_object() {
        match_resources(&own, constraints, errors);
        if constraints.items("resourceRules").is_empty() {
            errors.push(own.child("resourceRules").required(""));
        }
    } else {
        errors.push(own.required(""));
    }
    if check_conditions {
        checker.conditions(&at.child("matchConditions"), spec.items("matchConditions"), errors);
    }
    for (index, variable) in spec.items("variables").iter().enumerate() {
        checker.variable(&at.child("variables").index(index), variable, errors);
    }
}

fn param_kind(at: &Path, kind: &Value, errors: &mut Vec<Error>) {
    let version = kind.text("apiVersion");
    let own = at.child("apiVersion");
    let parts: Vec<&str> = version.split('/').collect();
    match parts.as_slice() {
        [""] => errors.push(own.required("")),
        [version] => api_version(&own, version, errors),
        [group, number] => {
            let wrong = names::dns1123_subdomain(group);
            if !group.is_empty() && !wrong.is_empty() {
                errors.push(own.invalid(*group, wrong.join(",")));
            }
            if number.is_empty() {
                errors.push(own.invalid(version, "version must be specified"));
            } else {
                api_version(&own, number, errors);
            }
        }
        _ => {
            errors.push(own.invalid(version, format!("unexpected GroupVersion string: {version}")));
        }
    }
    let (name, own) = (kind.text("kind"), at.child("kind"));
    let wrong = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(own.required(""));
    } else if !wrong.is_empty() {
        let text = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.push(own.invalid(name, text));
    }
}

fn api_version(at: &Path, version: &str, errors: &mut Vec<Error>) {
    let wrong = names::dns1035_label(version);
    if !wrong.is_empty() {
        errors.push(at.invalid(version, wrong.join(",")));
    }
}

fn match_resources(at: &Path, resources: &Value, errors: &mut Vec<Error>) {
    super::one_of(
        &at.child("matchPolicy"),
        resources.text("matchPolicy"),
        &MATCH_POLICIES,
        "",
        errors,
    );
    for field in ["namespaceSelector", "objectSelector"] {
        if resources.has(field) {
            label_selector(&at.child(field), &resources[field], errors);
        } else {
            errors.push(at.child(field).required(""));
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in resources.items(list).iter().enumerate() {
            named_rule(&at.child(list).index(index), rule, errors);
        }
    }
}

fn named_rule(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    let names = rule.items("resourceNames");
    for (index, name) in names.iter().enumerate() {
        let own = at.child("resourceNames").index(index);
        let text = name.as_str().unwrap_or("");
        faults(&own, text, names::path_segment(text), errors);
        if names[..index].contains(name) {
            errors.push(own.duplicate(text));
        }
    }
    webhooks::rule_with_operations(at, rule, errors);
}

fn validation(at: &Path, validation: &Value, checker: &Checker, errors: &mut Vec<Error>) {
    checker.validation(at, validation, errors);
    let message = validation.text("message");
    if !message.is_empty() && message.trim().is_empty() {
        let text = "message must be non-empty if specified";
        errors.push(at.child("message").invalid(message, text));
    } else if message.trim().contains(['\n', '\r']) {
        errors.push(at.child("message").invalid(message, "message must not contain line breaks"));
    }
    if let Some(reason) = validation.opt_text("reason").filter(|one| !REASONS.contains(one)) {
        errors.push(at.child("reason").not_supported(reason, &REASONS));
    }
}

fn audit_annotations(
    at: &Path,
    policy: &Value,
    annotations: &[Value],
    checker: &Checker,
    errors: &mut Vec<Error>,
) {
    if annotations.len() > ANNOTATIONS_MAX {
        let text = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.push(at.invalid(json!(annotations), text));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let at = at.index(index);
        let key = annotation.text("key");
        let name = policy["metadata"].text("name");
        if name.is_empty() {
            errors.push(at.child("key").invalid(key, "requires metadata.name be non-empty"));
        } else {
            let full = format!("{name}/{key}");
            faults(&at.child("key"), &full, names::qualified_name(&full), errors);
        }
        let value = at.child("valueExpression");
        if annotation.text("valueExpression").trim().len() > ANNOTATION_BYTES_MAX {
            let text = format!("must not exceed {ANNOTATION_BYTES_MAX} bytes in length");
            errors.push(value.required(text));
        } else {
            checker.annotation(&value, annotation, errors);
        }
        if seen.contains(&key) {
            errors.push(at.child("key").duplicate(key));
        }
        seen.push(key);
    }
}

fn mutation(at: &Path, mutation: &Value, checker: &Checker, errors: &mut Vec<Error>) {
    let kind = mutation.text("patchType");
    super::one_of(&at.child("patchType"), kind, &PATCH_TYPES, "", errors);
    for (own, field) in [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")] {
        let place = at.child(field);
        match (own == kind, mutation.has(field)) {
            (true, false) => {
                errors.push(place.required(format!("must be specified when patchType is {own}")))
            }
            (false, true) if PATCH_TYPES.contains(&kind) => errors
                .push(place.forbidden(format!("must not be specified when patchType is {kind}"))),
            (true, true) => checker.mutation(&place, own, &mutation[field], errors),
            _ => {}
        }
    }
}

pub(crate) fn validating_binding(binding: &Value) -> Vec<Error> {
    let mut errors = mutating_binding(binding);
    let at = Path::new("spec").child("validationActions");
    validation_actions(&at, binding["spec"].items("validationActions"), &mut errors);
    errors
}

pub(crate) fn validating_binding_update(new: &Value, _: &Value) -> Vec<Error> {
    validating_binding(new)
}

pub(crate) fn mutating_binding(binding: &Value) -> Vec<Error> {
    let (at, spec) = (Path::new("spec"), &binding["spec"]);
    let mut errors = Vec::new();
    let policy = spec.text("policyName");
    if policy.is_empty() {
        errors.push(at.child("policyName").required(""));
    } else {
        let wrong = names::subdomain_rule(policy, false);
        faults(&at.child("policyName"), policy, wrong, &mut errors);
    }
    if spec.has("paramRef") {
        param_ref(&at.child("paramRef"), &spec["paramRef"], &mut errors);
    }
    if spec.has("matchResources") {
        // Upstream spells the path like this, and clients show it.
        match_resources(&at.child("matchResouces"), &spec["matchResources"], &mut errors);
    }
    errors
}

pub(crate) fn mutating_binding_update(new: &Value, _: &Value) -> Vec<Error> {
    mutating_binding(new)
}

fn param_ref(at: &Path, param: &Value, errors: &mut Vec<Error>) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let name = param.text("name");
    let selects = param.has("selector");
    if !name.is_empty() {
        faults(&at.child("name"), name, names::path_segment(name), errors);
        if selects {
            errors.push(at.child("name").forbidden(EXCLUSIVE));
        }
    }
    if selects {
        label_selector(&at.child("selector"), &param["selector"], errors);
        if !name.is_empty() {
            errors.push(at.child("selector").forbidden(EXCLUSIVE));
        }
    }
    if name.is_empty() && !selects {
        errors.push(at.required("one of name or selector must be specified"));
    }
    let action = param.text("parameterNotFoundAction");
    super::one_of(&at.child("parameterNotFoundAction"), action, &NOT_FOUND_ACTIONS, "", errors);
}

fn validation_actions(at: &Path, actions: &[Value], errors: &mut Vec<Error>) {
    for (index, action) in actions.iter().enumerate() {
        let text = action.as_str().unwrap_or("");
        if !ACTIONS.contains(&text) {
            errors.push(at.index(index).not_supported(text, &ACTIONS));
        }
        if actions[..index].contains(action) {
            errors.push(at.index(index).duplicate(text));
        }
    }
    let has = |wanted: &str| actions.iter().any(|action| action == wanted);
    if has("Deny") && has("Warn") {
        let text = "must not contain both Deny and Warn (repeating the same validation failure \
                    information in the API response and headers serves no purpose)";
        errors.push(at.invalid(json!(actions), text));
    }
    if actions.is_empty() {
        errors.push(at.required("at least one validation action is required"));
    }
}
