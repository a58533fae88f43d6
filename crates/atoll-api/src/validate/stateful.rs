//! StatefulSets and DaemonSets: selectors, templates, strategies, and what may not change.

use serde_json::{Map, Value, json};

use super::workload::{
    MISMATCH, amount, collisions, is_empty, runs_on, selector_kept, share, status,
};
use super::{faults, label_selector, metadata, not_negative, pod, warnings};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;
use crate::selector::LabelSelector;

/// Fields of a StatefulSet's spec that may change.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];
const UNCHANGEABLE: &str = "updates to statefulset spec for fields other than 'replicas', \
     'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
     'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

pub(crate) fn stateful_set(set: &Value) -> Vec<Error> {
    let mut errors = stateful_rules(set);
    errors.extend(template_rules(set));
    errors
}

/// A template that was there before its rules were is not in the way of other changes.
pub(crate) fn stateful_set_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = stateful_rules(new);
    if template_rules(old).is_empty() {
        errors.extend(template_rules(new));
    }
    let fixed = |set: &Value| -> Map<String, Value> {
        let spec = set.fields("spec").cloned().unwrap_or_default();
        spec.into_iter().filter(|(field, _)| !CHANGEABLE.contains(&field.as_str())).collect()
    };
    if fixed(new) != fixed(old) {
        errors.push(Path::new("spec").forbidden(UNCHANGEABLE));
    }
    errors
}

pub(crate) fn stateful_set_status_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, is) = (Path::new("status"), &new["status"]);
    let count = |field: &str| is.int(field).unwrap_or(0);
    let bounded = ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    not_negative(&at.child("replicas"), count("replicas"), &mut errors);
    for field in bounded.iter().chain(&["observedGeneration", "collisionCount"]) {
        not_negative(&at.child(field), count(field), &mut errors);
    }
    for field in bounded {
        if count(field) > count("replicas") {
            let text = "cannot be greater than status.replicas";
            errors.push(at.child(field).invalid(count(field), text));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        let text = "cannot be greater than status.readyReplicas";
        errors.push(at.child("availableReplicas").invalid(count("availableReplicas"), text));
    }
    collisions(new, old, &mut errors);
    errors
}

pub(crate) fn stateful_set_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut texts = warnings::workload(new, old);
    let at = Path::new("spec").child("volumeClaimTemplates");
    for (index, template) in new["spec"].items("volumeClaimTemplates").iter().enumerate() {
        warnings::storage::claim_spec(&at.index(index), &template["spec"], &mut texts);
    }
    if new["spec"].int("revisionHistoryLimit").is_some_and(|limit| limit < 0) {
        texts.push(
            "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value \
             >= 0 is recommended"
                .to_owned(),
        );
    }
    texts
}

pub(crate) fn daemon_set(set: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, spec) = (Path::new("spec"), &set["spec"]);
    let selector = &spec["selector"];
    label_selector(&at.child("selector"), selector, &mut errors);
    let template_at = at.child("template");
    let labels = &spec["template"]["metadata"]["labels"];
    let matches = match LabelSelector::from_object(selector) {
        Ok(parsed) => !selector.is_null() && parsed.matches_object(&spec["template"]),
        Err(_) => true,
    };
    if !matches {
        let at = template_at.child("metadata").child("labels");
        errors.push(at.invalid(labels.clone(), MISMATCH));
    }
    if !selector.is_null() && is_empty(selector) {
        let text = "empty selector is invalid for daemonset";
        errors.push(at.child("selector").invalid(selector.clone(), text));
    }
    pod::template(&template_at, &spec["template"], &mut errors);
    runs_on(&template_at, &spec["template"], "DaemonSet", &mut errors);
    let seconds = spec.int("minReadySeconds").unwrap_or(0);
    not_negative(&at.child("minReadySeconds"), seconds, &mut errors);
    daemon_strategy(&at.child("updateStrategy"), &spec["updateStrategy"], &mut errors);
    let limit = spec.int("revisionHistoryLimit").unwrap_or(0);
    not_negative(&at.child("revisionHistoryLimit"), limit, &mut errors);
    errors
}

pub(crate) fn daemon_set_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = daemon_set(new);
    selector_kept(new, old, &mut errors);
    errors
}

pub(crate) fn daemon_set_status_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    status(&new["status"], &counts, &[], &mut errors);
    collisions(new, old, &mut errors);
    errors
}

/// Everything but what is in the pod template and the claim templates.
fn stateful_rules(set: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, spec) = (Path::new("spec"), &set["spec"]);
    management(&at.child("podManagementPolicy"), spec.text("podManagementPolicy"), &mut errors);
    stateful_strategy(&at.child("updateStrategy"), &spec["updateStrategy"], &mut errors);
    for field in ["whenDeleted", "whenScaled"] {
        let policy = &spec["persistentVolumeClaimRetentionPolicy"];
        if !policy.is_null() && !matches!(policy.text(field), "Retain" | "Delete") {
            let at = at.child("persistentVolumeClaimRetentionPolicy").child(field);
            errors.push(at.not_supported(policy.text(field), &["Retain", "Delete"]));
        }
    }
    for field in ["replicas", "minReadySeconds"] {
        not_negative(&at.child(field), spec.int(field).unwrap_or(0), &mut errors);
    }
    let first = spec["ordinals"].int("start").unwrap_or(0);
    not_negative(&at.child("ordinals.start"), first, &mut errors);
    stateful_selector(&at, spec, &mut errors);
    runs_on(&at.child("template"), &spec["template"], "StatefulSet", &mut errors);
    errors
}

fn management(at: &Path, policy: &str, errors: &mut Vec<Error>) {
    match policy {
        "" => errors.push(at.required("")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(at.invalid(other, "must be 'OrderedReady' or 'Parallel'")),
    }
}

fn stateful_selector(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let selector = &spec["selector"];
    let selector_at = at.child("selector");
    if selector.is_null() {
        errors.push(selector_at.required(""));
        return;
    }
    label_selector(&selector_at, selector, errors);
    if is_empty(selector) {
        let text = "empty selector is invalid for statefulset";
        errors.push(selector_at.invalid(selector.clone(), text));
    }
    match LabelSelector::from_object(selector) {
        Ok(parsed) if !parsed.matches_object(&spec["template"]) => {
            let value = spec["template"]["metadata"]["labels"].clone();
            let at = at.child("template").child("metadata").child("labels");
            errors.push(at.invalid(value, MISMATCH));
        }
        Ok(_) => {}
        Err(_) => errors.push(selector_at.invalid(selector.clone(), "")),
    }
}

/// The pod template as the pods will be: with a volume for each claim template.
fn template_rules(set: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, spec) = (Path::new("spec"), &set["spec"]);
    let service = spec.text("serviceName");
    if !service.is_empty() {
        let found = names::dns1123_label(service);
        faults(&at.child("serviceName"), service, found, &mut errors);
    }
    let claims = spec.items("volumeClaimTemplates");
    let mut template = spec["template"].clone();
    let own = template["spec"].items("volumes").iter();
    let claimed = |name: &str| claims.iter().any(|claim| claim["metadata"].text("name") == name);
    let mut volumes: Vec<Value> =
        own.filter(|volume| !claimed(volume.text("name"))).cloned().collect();
    volumes.extend(claims.iter().map(|claim| {
        let name = &claim["metadata"]["name"];
        json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
    }));
    if let Some(Value::Object(fields)) = template.get_mut("spec") {
        fields.insert("volumes".to_owned(), Value::Array(volumes));
    }
    pod::template(&at.child("template"), &template, &mut errors);
    let claims_at = at.child("volumeClaimTemplates");
    for (index, claim) in claims.iter().enumerate() {
        let at = claims_at.index(index).child("metadata");
        metadata::labels(&at.child("labels"), &claim["metadata"]["labels"], &mut errors);
        let annotations = &claim["metadata"]["annotations"];
        metadata::annotations(&at.child("annotations"), annotations, &mut errors);
    }
    errors
}

fn stateful_strategy(at: &Path, strategy: &Value, errors: &mut Vec<Error>) {
    let rolling = &strategy["rollingUpdate"];
    let rolling_at = at.child("rollingUpdate");
    match strategy.text("type") {
        "" => errors.push(at.required("")),
        "OnDelete" if !rolling.is_null() => {
            let text = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(rolling_at.invalid(rolling.clone(), text));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            let partition = rolling.int("partition").unwrap_or(0);
            not_negative(&rolling_at.child("partition"), partition, errors);
            let unavailable = &rolling["maxUnavailable"];
            let at = rolling_at.child("maxUnavailable");
            if !unavailable.is_null() {
                share(&at, unavailable, errors);
                if amount(unavailable) == 0 {
                    errors.push(at.invalid(unavailable.clone(), "cannot be 0"));
                }
                not_above_all(&at, unavailable, errors);
            }
        }
        _ => {
            let text = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(at.invalid(strategy.clone(), text));
        }
    }
}

fn daemon_strategy(at: &Path, strategy: &Value, errors: &mut Vec<Error>) {
    let rolling = &strategy["rollingUpdate"];
    let rolling_at = at.child("rollingUpdate");
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.push(rolling_at.required("")),
        "RollingUpdate" => {
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let unavailable_at = rolling_at.child("maxUnavailable");
            let surge_at = rolling_at.child("maxSurge");
            share(&unavailable_at, unavailable, errors);
            share(&surge_at, surge, errors);
            not_above_all(&unavailable_at, unavailable, errors);
            not_above_all(&surge_at, surge, errors);
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => {
                    let text = "may not be set when maxUnavailable is non-zero";
                    errors.push(surge_at.invalid(surge.clone(), text));
                }
                (false, false) => {
                    errors.push(unavailable_at.required("cannot be 0 when maxSurge is 0"));
                }
                _ => {}
            }
        }
        _ => errors.push(at.not_supported(strategy.clone(), &["RollingUpdate", "OnDelete"])),
    }
}

fn not_above_all(at: &Path, value: &Value, errors: &mut Vec<Error>) {
    if value.is_string() && amount(value) > 100 {
        errors.push(at.invalid(value.clone(), "must not be greater than 100%"));
    }
}

#[cfg(test)]
mod tests;
