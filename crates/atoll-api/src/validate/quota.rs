//! ResourceQuota and LimitRange, in upstream's words.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{faults, resources};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount;
use crate::kinds::quota::amounts::{self, Amounts};
use crate::names;
use crate::quantity::{Format, Quantity};

const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
    "storage",
];
/// What scopes about pods can bound.
const OF_PODS: [&str; 7] =
    ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];
const EXIST_ONLY: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
    ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
    ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
/// What can be given beyond what there is.
const OVERCOMMITTED: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

pub(crate) fn resource_quota(quota: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (spec, at) = (&quota["spec"], Path::new("spec"));
    amounts_of_quota(&at.child("hard"), &spec["hard"], &mut errors);
    scopes(&at.child("scopes"), spec, &mut errors);
    selector(&at.child("scopeSelector"), spec, &mut errors);
    errors
}

pub(crate) fn resource_quota_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = resource_quota(new);
    let set = |quota: &Value| -> BTreeSet<String> {
        let scopes = quota["spec"].items("scopes").iter();
        scopes.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if set(new) != set(old) {
        let at = Path::new("spec").child("scopes");
        errors.push(at.invalid(new["spec"]["scopes"].clone(), super::IMMUTABLE));
    }
    errors
}

pub(crate) fn resource_quota_status(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    for list in ["hard", "used"] {
        let at = Path::new("status").child(list);
        amounts_of_quota(&at, &new["status"][list], &mut errors);
    }
    errors
}

fn amounts_of_quota(at: &Path, list: &Value, errors: &mut Vec<Error>) {
    for (name, value) in list.as_object().into_iter().flatten() {
        let at = at.key(name);
        resource_name(&at, name, errors);
        resources::amount(&at, name, value, errors);
    }
}

fn resource_name(at: &Path, name: &str, errors: &mut Vec<Error>) {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        faults(at, name, wrong, errors);
        return;
    }
    let pages = name.starts_with("hugepages-") || name.starts_with("requests.hugepages-");
    if !name.contains('/') && !STANDARD[..19].contains(&name) && !pages {
        errors.push(at.invalid(name, "must be a standard resource for quota"));
    }
}

/// Whether a scope can be about a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        _ => OF_PODS.contains(&resource),
    }
}

fn unfit(spec: &Value, scope: &str) -> bool {
    let hard = spec.fields("hard").into_iter().flatten();
    hard.map(|(name, _)| name.as_str()).any(|name| STANDARD.contains(&name) && !fits(scope, name))
}

fn conflicting(scopes: &BTreeSet<&str>) -> bool {
    let both = |one: &str, other: &str| scopes.contains(one) && scopes.contains(other);
    both("BestEffort", "NotBestEffort") || both("Terminating", "NotTerminating")
}

fn scopes(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let shown = &spec["scopes"];
    let set: BTreeSet<&str> = spec.items("scopes").iter().filter_map(Value::as_str).collect();
    for scope in spec.items("scopes").iter().filter_map(Value::as_str) {
        if !SCOPES.contains(&scope) {
            errors.push(at.invalid(shown.clone(), "unsupported scope"));
        }
        if unfit(spec, scope) {
            errors.push(at.invalid(shown.clone(), "unsupported scope applied to resource"));
        }
    }
    if conflicting(&set) {
        errors.push(at.invalid(shown.clone(), "conflicting scopes"));
    }
}

fn selector(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let shown = &spec["scopeSelector"];
    let at = at.child("matchExpressions");
    let mut set = BTreeSet::new();
    for one in shown.items("matchExpressions") {
        let (scope, operator) = (one.text("scopeName"), one.text("operator"));
        if !SCOPES.contains(&scope) {
            errors.push(at.child("scopeName").invalid(scope, "unsupported scope"));
        }
        if unfit(spec, scope) {
            errors.push(at.invalid(shown.clone(), "unsupported scope applied to resource"));
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && operator != "Exists" {
            errors.push(at.child("operator").invalid(operator, EXIST_ONLY));
        }
        match operator {
            "In" | "NotIn" if one.items("values").is_empty() => errors
                .push(at.child("values").required(
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !one.items("values").is_empty() => {
                errors.push(at.child("values").invalid(
                    one["values"].clone(),
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope \
                     selector",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(at.child("operator").invalid(other, "not a valid selector operator"));
            }
        }
        set.insert(scope);
    }
    if conflicting(&set) {
        errors.push(at.invalid(shown.clone(), "conflicting scopes"));
    }
}

pub(crate) fn limit_range_update(new: &Value, _: &Value) -> Vec<Error> {
    limit_range(new)
}

pub(crate) fn limit_range(range: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec").child("limits");
    let mut seen = BTreeSet::new();
    for (index, item) in range["spec"].items("limits").iter().enumerate() {
        let at = at.index(index);
        let kind = item.text("type");
        limit_type(&at.child("type"), kind, &mut errors);
        if !seen.insert(kind) {
            errors.push(at.child("type").duplicate(kind));
        }
        limit_item(&at, kind, item, &mut errors);
    }
    errors
}

fn limit_type(at: &Path, kind: &str, errors: &mut Vec<Error>) {
    let wrong = names::qualified_name(kind);
    if !wrong.is_empty() {
        faults(at, kind, wrong, errors);
    } else if !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind)
    {
        errors.push(at.invalid(kind, "must be a standard limit type or fully qualified"));
    }
}

fn limit_item(at: &Path, kind: &str, item: &Value, errors: &mut Vec<Error>) {
    let named = |list: &str, errors: &mut Vec<Error>| {
        for (name, value) in item.fields(list).into_iter().flatten() {
            let at = at.child(list).key(name);
            limit_resource(&at, kind, name, errors);
            if value.as_str().and_then(amount::parse).is_none() {
                errors.push(at.invalid(value.clone(), "must be a valid resource quantity"));
            }
        }
    };
    named("max", errors);
    named("min", errors);
    if kind == "Pod" {
        for list in ["default", "defaultRequest"] {
            if item.fields(list).is_some_and(|fields| !fields.is_empty()) {
                let text = "may not be specified when `type` is 'Pod'";
                errors.push(at.child(list).forbidden(text));
            }
        }
    } else {
        named("default", errors);
        named("defaultRequest", errors);
    }
    if kind == "PersistentVolumeClaim" && !item["min"].has("storage") && !item["max"].has("storage")
    {
        let text = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(at.child("limits").required(text));
    }
    named("maxLimitRequestRatio", errors);
    let bounds = Item::of(at, item);
    let lists = [&bounds.min, &bounds.max, &bounds.default, &bounds.request, &bounds.ratio];
    let all: BTreeSet<&String> = lists.into_iter().flat_map(Amounts::keys).collect();
    for name in all {
        bounds.order(name, errors);
        bounds.ratio(name, errors);
    }
}

fn limit_resource(at: &Path, kind: &str, name: &str, errors: &mut Vec<Error>) {
    let wrong = names::qualified_name(name);
    if !wrong.is_empty() {
        faults(at, name, wrong, errors);
        return;
    }
    if name.contains('/') {
        return;
    }
    let pages = name.starts_with("hugepages-");
    if matches!(kind, "Pod" | "Container") {
        if !OVERCOMMITTED.contains(&name) && !pages {
            errors.push(at.invalid(name, "must be a standard resource for containers"));
        }
    } else if !STANDARD.contains(&name) && !pages {
        errors.push(at.invalid(name, "must be a standard resource type or fully qualified"));
    }
}

/// One item of a LimitRange, read.
struct Item<'a> {
    at: &'a Path,
    min: Amounts,
    max: Amounts,
    default: Amounts,
    request: Amounts,
    ratio: Amounts,
}

impl<'a> Item<'a> {
    fn of(at: &'a Path, item: &Value) -> Self {
        let list = |name: &str| amounts::read(&item[name]);
        Self {
            at,
            min: list("min"),
            max: list("max"),
            default: list("default"),
            request: list("defaultRequest"),
            ratio: list("maxLimitRequestRatio"),
        }
    }

    /// min ≤ defaultRequest ≤ default ≤ max.
    fn order(&self, name: &str, errors: &mut Vec<Error>) {
        let of = |list: &Amounts| list.get(name).copied();
        let (min, max) = (of(&self.min), of(&self.max));
        let (default, request) = (of(&self.default), of(&self.request));
        let mut ordered = |low: Option<Quantity>,
                           high: Option<Quantity>,
                           place: &str,
                           shown: bool,
                           words: [&str; 2]| {
            if let (Some(low), Some(high)) = (low, high)
                && low > high
            {
                let text =
                    format!("{} value {low} is greater than {} value {high}", words[0], words[1]);
                // Upstream shows the value of the wrong side for `default`.
                let value = if shown { low } else { high };
                errors.push(self.at.child(place).key(name).invalid(value.to_string(), text));
            }
        };
        ordered(min, max, "min", true, ["min", "max"]);
        ordered(min, request, "defaultRequest", false, ["min", "default request"]);
        ordered(request, max, "defaultRequest", true, ["default request", "max"]);
        ordered(request, default, "defaultRequest", true, ["default request", "default limit"]);
        ordered(min, default, "default", true, ["min", "default"]);
        ordered(default, max, "default", false, ["default", "max"]);
        let overcommitted = OVERCOMMITTED.contains(&name);
        if let (false, Some(default), Some(request)) = (overcommitted, default, request)
            && default != request
        {
            let text = format!(
                "default value {default} must equal to defaultRequest value {request} in {name}"
            );
            let at = self.at.child("defaultRequest").key(name);
            errors.push(at.invalid(request.to_string(), text));
        }
    }

    fn ratio(&self, name: &str, errors: &mut Vec<Error>) {
        let Some(ratio) = self.ratio.get(name).copied() else { return };
        let at = self.at.child("maxLimitRequestRatio").key(name);
        if ratio < Quantity::new(1, Format::DecimalSi) {
            errors.push(at.invalid(ratio.to_string(), format!("ratio {ratio} is less than 1")));
        }
        let (Some(min), Some(max)) = (self.min.get(name), self.max.get(name)) else { return };
        let share = |amount: &Quantity| amount.milli() as f64;
        let bound = share(max) / share(min);
        if share(&ratio) / 1000.0 > bound {
            let text = format!("ratio {ratio} is greater than max/min = {bound:.6}");
            errors.push(at.invalid(ratio.to_string(), text));
        }
    }
}
