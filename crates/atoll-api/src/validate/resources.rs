//! Requests and limits: names of resources and their amounts.

use serde_json::Value;

use super::{NOT_NEGATIVE, faults};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount::{UNIT, parse};
use crate::names;

const NOT_INTEGER: &str = "must be an integer";
const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
/// Names without a prefix that mean something somewhere, if not in a container.
const STANDARD_ELSEWHERE: [&str; 13] = [
    "configmaps",
    "limits.cpu",
    "limits.memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "storage",
];
const HUGE_PAGES: &str = "hugepages-";

/// Checks the resources of a container.
pub(crate) fn requirements(
    at: &Path,
    resources: &Value,
    claims: &[Value],
    errors: &mut Vec<Error>,
) {
    check(at, resources, container_resource, errors);
    for (index, claim) in resources.items("claims").iter().enumerate() {
        let at = at.child("claims").index(index);
        let name = claim.text("name");
        if name.is_empty() {
            errors.push(at.child("name").required(""));
        } else if !claims.iter().any(|one| one.text("name") == name) {
            errors.push(at.child("name").not_found(name));
        }
    }
}

/// Checks the resources of a pod as a whole.
pub(crate) fn pod_requirements(at: &Path, resources: &Value, errors: &mut Vec<Error>) {
    if resources.has("claims") {
        let text = "claims may not be set for Resources at pod-level";
        errors.push(at.child("claims").forbidden(text));
    }
    check(at, resources, pod_resource, errors);
}

/// Checks one amount of a resource.
pub(crate) fn amount(at: &Path, resource: &str, value: &Value, errors: &mut Vec<Error>) {
    let text = shown(value);
    let Some(amount) = parse(&text) else {
        errors.push(at.invalid(text, "must be a valid resource quantity"));
        return;
    };
    if amount < 0 {
        errors.push(at.invalid(text.as_str(), NOT_NEGATIVE));
    }
    let whole_only = resource.contains('/') && !is_native(resource)
        || matches!(resource, "pods" | "services" | "secrets" | "configmaps");
    if whole_only && amount % UNIT != 0 {
        errors.push(at.invalid(text, NOT_INTEGER));
    }
}

fn check(
    at: &Path,
    resources: &Value,
    rule: fn(&Path, &str, &mut Vec<Error>),
    errors: &mut Vec<Error>,
) {
    let limits = &resources["limits"];
    for (resource, value) in resources.fields("limits").into_iter().flatten() {
        let at = at.child("limits").key(resource);
        rule(&at, resource, errors);
        amount(&at, resource, value, errors);
        huge_page(&at, resource, value, errors);
    }
    for (resource, value) in resources.fields("requests").into_iter().flatten() {
        let key_at = at.child("requests").key(resource);
        rule(&key_at, resource, errors);
        amount(&key_at, resource, value, errors);
        request_within_limit(at, resource, value, &limits[resource.as_str()], errors);
        huge_page(&key_at, resource, value, errors);
    }
    let holds = |test: fn(&str) -> bool| {
        ["limits", "requests"].iter().any(|field| {
            resources.fields(field).into_iter().flatten().any(|(resource, _)| test(resource))
        })
    };
    if holds(|one| one.starts_with(HUGE_PAGES)) && !holds(|one| matches!(one, "cpu" | "memory")) {
        errors.push(at.forbidden("HugePages require cpu or memory"));
    }
}

fn request_within_limit(
    at: &Path,
    resource: &str,
    request: &Value,
    limit: &Value,
    errors: &mut Vec<Error>,
) {
    let requests_at = at.child("requests");
    let overcommit = is_native(resource) && !resource.starts_with(HUGE_PAGES);
    if limit.is_null() {
        if !overcommit {
            let text = "Limit must be set for non overcommitable resources";
            errors.push(at.child("limits").required(text));
        }
        return;
    }
    let (asked, bound) = (shown(request), shown(limit));
    let (Some(asked_amount), Some(bound_amount)) = (parse(&asked), parse(&bound)) else { return };
    if asked_amount != bound_amount && !overcommit {
        let text = format!("must be equal to {resource} limit of {bound}");
        errors.push(requests_at.invalid(asked, text));
    } else if asked_amount > bound_amount {
        let text = format!("must be less than or equal to {resource} limit of {bound}");
        errors.push(requests_at.invalid(asked, text));
    }
}

fn huge_page(at: &Path, resource: &str, value: &Value, errors: &mut Vec<Error>) {
    let Some(page) = resource.strip_prefix(HUGE_PAGES).and_then(parse) else { return };
    let text = shown(value);
    let divisible = parse(&text).is_some_and(|amount| page > 0 && amount % page == 0);
    if !divisible {
        let detail = format!("{text} is not positive integer multiple of {resource}");
        errors.push(at.invalid(text, detail));
    }
}

fn container_resource(at: &Path, resource: &str, errors: &mut Vec<Error>) {
    if !known_form(at, resource, errors) {
        return;
    }
    if !resource.contains('/') {
        if !STANDARD.contains(&resource) && !resource.starts_with(HUGE_PAGES) {
            errors.push(at.invalid(resource, "must be a standard resource for containers"));
        }
    } else if !is_native(resource) && resource.starts_with("requests.") {
        errors.push(at.invalid(resource, "doesn't follow extended resource name standard"));
    }
}

fn pod_resource(at: &Path, resource: &str, errors: &mut Vec<Error>) {
    if !known_form(at, resource, errors) {
        return;
    }
    if !matches!(resource, "cpu" | "memory") && !resource.starts_with(HUGE_PAGES) {
        errors.push(at.not_supported(resource, &["cpu", "hugepages-", "memory"]));
    }
}

fn known_form(at: &Path, resource: &str, errors: &mut Vec<Error>) -> bool {
    let wrong = names::qualified_name(resource);
    if !wrong.is_empty() {
        faults(at, resource, wrong, errors);
        return false;
    }
    let standard = STANDARD.contains(&resource)
        || STANDARD_ELSEWHERE.contains(&resource)
        || resource.starts_with(HUGE_PAGES);
    if !resource.contains('/') && !standard {
        errors.push(at.invalid(resource, "must be a standard resource type or fully qualified"));
    }
    true
}

/// Resources of Kubernetes itself: without a prefix or under its domain.
fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
