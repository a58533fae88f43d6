//! What a policy may hold, in upstream's words.

use atoll_api::access::Access as _;
use atoll_api::field::{Error, Path};
use atoll_api::names;
use serde_json::{Value, json};

const LEVELS: [&str; 4] = ["None", "Metadata", "Request", "RequestResponse"];
const STAGES: [&str; 4] = ["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"];

/// The fields that are lists of texts, in a rule.
const RULE_LISTS: [&str; 6] =
    ["users", "userGroups", "verbs", "namespaces", "nonResourceURLs", "omitStages"];

pub(super) fn policy(policy: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let root = Path::root();
    if !policy.is_object() {
        return vec![root.invalid(policy.clone(), "a policy is an object")];
    }
    kind(policy, &mut errors);
    let known = ["apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"];
    fields(&root, policy, &known, &mut errors);
    texts(&root, policy, "omitStages", &mut errors);
    stages(&root, policy, &mut errors);
    flag(&root, policy, &mut errors);
    let at = root.child("rules");
    match &policy["rules"] {
        Value::Array(rules) if !rules.is_empty() => {
            for (index, one) in rules.iter().enumerate() {
                rule(&at.index(index), one, &mut errors);
            }
        }
        Value::Null | Value::Array(_) => {
            errors.push(at.required("loaded illegal policy with 0 rules"));
        }
        other => errors.push(at.invalid(other.clone(), "must be a list")),
    }
    errors
}

fn kind(policy: &Value, errors: &mut Vec<Error>) {
    let (version, kind) = (policy.text("apiVersion"), policy.text("kind"));
    if version != "audit.k8s.io/v1" {
        let text = format!("unknown group version field {version}, Kind={kind} in policy");
        errors.push(Path::new("apiVersion").invalid(version, text));
    } else if kind != "Policy" {
        errors.push(Path::new("kind").not_supported(kind, &["Policy"]));
    }
}

fn fields(at: &Path, value: &Value, known: &[&str], errors: &mut Vec<Error>) {
    for field in value.as_object().into_iter().flatten().map(|(field, _)| field) {
        if !known.contains(&field.as_str()) {
            errors.push(at.child(field).forbidden("unknown field"));
        }
    }
}

fn texts(at: &Path, value: &Value, field: &str, errors: &mut Vec<Error>) {
    match &value[field] {
        Value::Null => {}
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate().filter(|(_, item)| !item.is_string()) {
                errors.push(at.child(field).index(index).invalid(item.clone(), "must be a string"));
            }
        }
        other => errors.push(at.child(field).invalid(other.clone(), "must be a list")),
    }
}

fn flag(at: &Path, value: &Value, errors: &mut Vec<Error>) {
    let flag = &value["omitManagedFields"];
    if !flag.is_null() && !flag.is_boolean() {
        errors.push(at.child("omitManagedFields").invalid(flag.clone(), "must be true or false"));
    }
}

fn stages(at: &Path, value: &Value, errors: &mut Vec<Error>) {
    for (index, stage) in value.items("omitStages").iter().enumerate() {
        let stage = stage.as_str().unwrap_or("");
        if !STAGES.contains(&stage) {
            let text = format!("allowed stages are {}", STAGES.join(","));
            errors.push(at.child("omitStages").index(index).invalid(stage, text));
        }
    }
}

fn rule(at: &Path, rule: &Value, errors: &mut Vec<Error>) {
    if !rule.is_object() {
        errors.push(at.invalid(rule.clone(), "a rule is an object"));
        return;
    }
    let mut known = RULE_LISTS.to_vec();
    known.extend(["level", "resources", "omitManagedFields"]);
    fields(at, rule, &known, errors);
    for field in RULE_LISTS {
        texts(at, rule, field, errors);
    }
    flag(at, rule, errors);
    match &rule["level"] {
        Value::Null => errors.push(at.child("level").required("")),
        level if level.as_str().is_some_and(|level| LEVELS.contains(&level)) => {}
        level => errors.push(at.child("level").not_supported(level.clone(), &LEVELS)),
    }
    paths(&at.child("nonResourceURLs"), rule.items("nonResourceURLs"), errors);
    resources(&at.child("resources"), &rule["resources"], errors);
    stages(at, rule, errors);
    let both = !rule.items("resources").is_empty() || !rule.items("namespaces").is_empty();
    if !rule.items("nonResourceURLs").is_empty() && both {
        let text = "rules cannot apply to both regular resources and non-resource URLs";
        let urls = json!(rule.items("nonResourceURLs"));
        errors.push(at.child("nonResourceURLs").invalid(urls, text));
    }
}

fn paths(at: &Path, paths: &[Value], errors: &mut Vec<Error>) {
    for (index, path) in paths.iter().enumerate() {
        let path = path.as_str().unwrap_or("");
        if path == "*" {
            continue;
        }
        if !path.starts_with('/') {
            let text = "non-resource URL rules must begin with a '/' character";
            errors.push(at.index(index).invalid(path, text));
        }
        if path.char_indices().any(|(place, one)| one == '*' && place + 1 != path.len()) {
            let text = "non-resource URL wildcards '*' must be the final character of the rule";
            errors.push(at.index(index).invalid(path, text));
        }
    }
}

fn resources(at: &Path, resources: &Value, errors: &mut Vec<Error>) {
    let items = match resources {
        Value::Null => return,
        Value::Array(items) => items,
        other => {
            errors.push(at.invalid(other.clone(), "must be a list"));
            return;
        }
    };
    for (index, one) in items.iter().enumerate() {
        let at = at.index(index);
        if !one.is_object() {
            errors.push(at.invalid(one.clone(), "must be an object"));
            continue;
        }
        fields(&at, one, &["group", "resources", "resourceNames"], errors);
        texts(&at, one, "resources", errors);
        texts(&at, one, "resourceNames", errors);
        let group = &one["group"];
        let name = group.as_str().unwrap_or("");
        if !group.is_null() && !group.is_string() {
            errors.push(at.child("group").invalid(group.clone(), "must be a string"));
        } else if !name.is_empty() && name != "*" {
            let faults = names::dns1123_subdomain(name);
            if !faults.is_empty() {
                errors.push(at.child("group").invalid(name, faults.join(",")));
            }
        }
        if !one.items("resourceNames").is_empty() && one.items("resources").is_empty() {
            let text = "using resourceNames requires at least one resource";
            let names = json!(one.items("resourceNames"));
            errors.push(at.child("resourceNames").invalid(names, text));
        }
    }
}
