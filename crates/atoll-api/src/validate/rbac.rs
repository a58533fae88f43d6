//! Roles and bindings.

use serde_json::Value;

use super::{faults, label_selector, same};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(crate) fn role(role: &Value) -> Vec<Error> {
    rules(role, true)
}

pub(crate) fn role_update(new: &Value, _: &Value) -> Vec<Error> {
    role(new)
}

pub(crate) fn cluster_role(role: &Value) -> Vec<Error> {
    let mut errors = rules(role, false);
    if role.has("aggregationRule") {
        let at = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = role["aggregationRule"].items("clusterRoleSelectors");
        if selectors.is_empty() {
            let text = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.push(at.required(text));
        }
        for (index, selector) in selectors.iter().enumerate() {
            label_selector(&at.index(index), selector, &mut errors);
        }
    }
    errors
}

pub(crate) fn cluster_role_update(new: &Value, _: &Value) -> Vec<Error> {
    cluster_role(new)
}

pub(crate) fn role_binding(binding: &Value) -> Vec<Error> {
    self::binding(binding, &["Role", "ClusterRole"], true)
}

pub(crate) fn role_binding_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = role_binding(new);
    same_role(new, old, &mut errors);
    errors
}

pub(crate) fn cluster_role_binding(binding: &Value) -> Vec<Error> {
    self::binding(binding, &["ClusterRole"], false)
}

pub(crate) fn cluster_role_binding_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = cluster_role_binding(new);
    same_role(new, old, &mut errors);
    errors
}

fn same_role(new: &Value, old: &Value, errors: &mut Vec<Error>) {
    if !same(&new["roleRef"], &old["roleRef"]) {
        // The Go type has no names for JSON, so its fields appear in capitals.
        let role = &new["roleRef"];
        let value = serde_json::json!({
            "APIGroup": role.text("apiGroup"), "Kind": role.text("kind"), "Name": role.text("name"),
        });
        errors.push(Path::new("roleRef").invalid(value, "cannot change roleRef"));
    }
}

fn rules(role: &Value, namespaced: bool) -> Vec<Error> {
    let mut errors = Vec::new();
    for (index, rule) in role.items("rules").iter().enumerate() {
        self::rule(&Path::new("rules").index(index), rule, namespaced, &mut errors);
    }
    errors
}

fn rule(at: &Path, rule: &Value, namespaced: bool, errors: &mut Vec<Error>) {
    let empty = |field: &str| rule.items(field).is_empty();
    if empty("verbs") {
        errors.push(at.child("verbs").required("verbs must contain at least one value"));
    }
    let urls = rule.items("nonResourceURLs");
    if !urls.is_empty() {
        let at = at.child("nonResourceURLs");
        if namespaced {
            errors.push(at.invalid(urls, "namespaced rules cannot apply to non-resource URLs"));
        }
        if !(empty("apiGroups") && empty("resources") && empty("resourceNames")) {
            let text = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(at.invalid(urls, text));
        }
        return;
    }
    if empty("apiGroups") {
        let text = "resource rules must supply at least one api group";
        errors.push(at.child("apiGroups").required(text));
    }
    if empty("resources") {
        let text = "resource rules must supply at least one resource";
        errors.push(at.child("resources").required(text));
    }
}

fn binding(binding: &Value, kinds: &[&str], namespaced: bool) -> Vec<Error> {
    let mut errors = Vec::new();
    let role = &binding["roleRef"];
    let at = Path::new("roleRef");
    if role.text("apiGroup") != GROUP {
        errors.push(at.child("apiGroup").not_supported(role.text("apiGroup"), &[GROUP]));
    }
    if !kinds.contains(&role.text("kind")) {
        errors.push(at.child("kind").not_supported(role.text("kind"), kinds));
    }
    let name = role.text("name");
    if name.is_empty() {
        errors.push(at.child("name").required(""));
    } else {
        faults(&at.child("name"), name, names::path_segment(name), &mut errors);
    }
    for (index, subject) in binding.items("subjects").iter().enumerate() {
        self::subject(&Path::new("subjects").index(index), subject, namespaced, &mut errors);
    }
    errors
}

fn subject(at: &Path, subject: &Value, namespaced: bool, errors: &mut Vec<Error>) {
    let (name, group) = (subject.text("name"), subject.text("apiGroup"));
    if name.is_empty() {
        errors.push(at.child("name").required(""));
    }
    match subject.text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                faults(&at.child("name"), name, names::dns1123_subdomain(name), errors);
            }
            if !group.is_empty() {
                errors.push(at.child("apiGroup").not_supported(group, &[""]));
            }
            if !namespaced && subject.text("namespace").is_empty() {
                errors.push(at.child("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(at.child("apiGroup").not_supported(group, &[GROUP]));
            }
        }
        kind => {
            let supported = ["ServiceAccount", "User", "Group"];
            errors.push(at.child("kind").not_supported(kind, &supported));
        }
    }
}
