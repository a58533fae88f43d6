//! FlowSchema.

mod level;

use serde_json::{Value, json};

use super::faults;
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::flow::mandatory_spec;
use crate::names;

pub(crate) use level::{level, level_update};

const PRECEDENCE_MAX: i64 = 10_000;
const METHODS: [&str; 2] = ["ByNamespace", "ByUser"];
const SUBJECTS: [&str; 3] = ["Group", "ServiceAccount", "User"];
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(crate) fn schema(schema: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let name = schema["metadata"].text("name");
    let at = Path::new("spec");
    spec(&at, name, &schema["spec"], &mut errors);
    if let Some(fixed) = mandatory_spec("FlowSchema", name)
        && schema["spec"] != fixed
    {
        let text = format!("spec of '{name}' must equal the fixed value");
        errors.push(at.invalid(schema["spec"].clone(), text));
    }
    errors.extend(conditions(schema));
    errors
}

pub(crate) fn schema_update(new: &Value, _: &Value) -> Vec<Error> {
    schema(new)
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    conditions(new)
}

/// Of flow schemas and of priority levels.
fn conditions(object: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let at = Path::new("status").child("conditions");
    for (index, condition) in object["status"].items("conditions").iter().enumerate() {
        let (at, kind) = (at.index(index).child("type"), condition.text("type"));
        if seen.contains(&kind) {
            errors.push(at.duplicate(kind));
        }
        seen.push(kind);
        if kind.is_empty() {
            errors.push(at.required("must not be empty"));
        }
    }
    errors
}

fn spec(at: &Path, name: &str, spec: &Value, errors: &mut Vec<Error>) {
    let precedence = spec.int("matchingPrecedence").unwrap_or(0);
    let own = at.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(own.invalid(precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        let text = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(own.invalid(precedence, text));
    }
    if precedence == 1 && name != "exempt" {
        let text = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(own.invalid(precedence, text));
    }
    if spec.has("distinguisherMethod") {
        let method = spec["distinguisherMethod"].text("type");
        if !METHODS.contains(&method) {
            let at = at.child("distinguisherMethod").child("type");
            errors.push(at.not_supported(spec["distinguisherMethod"].clone(), &METHODS));
        }
    }
    let level = spec["priorityLevelConfiguration"].text("name");
    let own = at.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errors.push(own.required("must reference a priority level"));
    } else {
        faults(&own, level, names::dns1123_subdomain(level), errors);
    }
    for (index, one) in spec.items("rules").iter().enumerate() {
        rules(&at.child("rules").index(index), one, errors);
    }
}

fn rules(at: &Path, rules: &Value, errors: &mut Vec<Error>) {
    let subjects = rules.items("subjects");
    if subjects.is_empty() {
        errors.push(at.child("subjects").required("subjects must contain at least one value"));
    }
    for (index, one) in subjects.iter().enumerate() {
        subject(&at.child("subjects").index(index), one, errors);
    }
    let (resources, others) = (rules.items("resourceRules"), rules.items("nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let text = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(at.required(text));
    }
    for (index, rule) in resources.iter().enumerate() {
        resource_rule(&at.child("resourceRules").index(index), rule, errors);
    }
    for (index, rule) in others.iter().enumerate() {
        path_rule(&at.child("nonResourceRules").index(index), rule, errors);
    }
}

/// The field that each kind of subject has, and no other.
const SUBJECT_FIELDS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(at: &Path, subject: &Value, errors: &mut Vec<Error>) {
    let kind = subject.text("kind");
    if !SUBJECTS.contains(&kind) {
        errors.push(at.child("kind").not_supported(kind, &SUBJECTS));
        return;
    }
    for (owner, field) in SUBJECT_FIELDS {
        if owner == kind && !subject.has(field) {
            let text = format!("{field} is required when subject kind is '{kind}'");
            errors.push(at.child(field).required(text));
        } else if owner == kind {
            named(&at.child(field), &subject[field], kind == "ServiceAccount", errors);
        } else if subject.has(field) {
            let text = format!("{field} is forbidden when subject kind is not '{owner}'");
            errors.push(at.child(field).forbidden(text));
        }
    }
}

fn named(at: &Path, subject: &Value, is_account: bool, errors: &mut Vec<Error>) {
    let name = subject.text("name");
    if name.is_empty() {
        errors.push(at.child("name").required(""));
    } else if is_account && name != "*" {
        faults(&at.child("name"), name, names::dns1123_subdomain(name), errors);
    }
    if !is_account {
        return;
    }
    let namespace = subject.text("namespace");
    if namespace.is_empty() {
        let text = "must specify namespace for service account";
        errors.push(at.child("namespace").required(text));
    } else {
        faults(&at.child("namespace"), namespace, names::dns1123_label(namespace), errors);
    }
}

fn has_wildcard(values: &[Value]) -> bool {
    values.iter().any(|value| value == "*")
}

fn verbs(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    let (at, values) = (at.child("verbs"), rule.items("verbs"));
    let known = |verb: &Value| verb.as_str().is_some_and(|verb| VERBS.contains(&verb));
    if values.is_empty() {
        errors.push(at.required("verbs must contain at least one value"));
    } else if has_wildcard(values) {
        if values.len() > 1 {
            let text = "if '*' is present, must not specify other verbs";
            errors.push(at.invalid(json!(values), text));
        }
    } else if !values.iter().all(known) {
        errors.push(at.not_supported(json!(values), &VERBS));
    }
}

fn resource_rule(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    verbs(at, rule, errors);
    for (field, one, many) in
        [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
    {
        let values = rule.items(field);
        if values.is_empty() {
            let text = format!("resource rules must supply at least one {one}");
            errors.push(at.child(field).required(text));
        } else if values.len() > 1 && has_wildcard(values) {
            let text = format!("if '*' is present, must not specify other {many}");
            errors.push(at.child(field).invalid(json!(values), text));
        }
    }
    let (own, values) = (at.child("namespaces"), rule.items("namespaces"));
    if values.is_empty() && !rule.flag("clusterScope") {
        let text = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(own.required(text));
    } else if has_wildcard(values) {
        if values.len() > 1 {
            let text = "if '*' is present, must not specify other namespaces";
            errors.push(own.invalid(json!(values), text));
        }
    } else {
        for (index, namespace) in values.iter().enumerate() {
            let namespace = namespace.as_str().unwrap_or("");
            let found = names::dns1123_label(namespace).into_iter().map(|fault| {
                format!("each member of this list must be '*' or a DNS-1123 label; {fault}")
            });
            faults(&own.index(index), namespace, found.collect(), errors);
        }
    }
}

fn path_rule(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    verbs(at, rule, errors);
    let (own, paths) = (at.child("nonResourceURLs"), rule.items("nonResourceURLs"));
    if paths.is_empty() {
        errors.push(own.required("nonResourceURLs must contain at least one value"));
    } else if has_wildcard(paths) {
        if paths.len() > 1 {
            let text = "if '*' is present, must not specify other non-resource URLs";
            errors.push(own.invalid(json!(paths), text));
        }
    } else {
        for (index, path) in paths.iter().enumerate() {
            let path = path.as_str().unwrap_or("");
            if let Some(fault) = path_fault(path) {
                errors.push(own.index(index).invalid(path, fault));
            }
        }
    }
}

fn path_fault(path: &str) -> Option<&'static str> {
    let stars = path.matches('*').count();
    match path {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !path.starts_with('/') => Some("must start with slash"),
        _ if path.contains(' ') => Some("must not contain white-space"),
        _ if path.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !path.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
