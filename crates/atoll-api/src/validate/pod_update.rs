//! What may change in a pod, and by which way.

use serde_json::Value;

use super::{IMMUTABLE, affinity, faults, pod, same};
use crate::access::Access as _;
use crate::field::{Error, Path, quote};
use crate::names;

const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;
pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
const CHANGEABLE: &str = "pod updates may not change fields other than \
     `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
     `spec.tolerations` (only additions to existing tolerations),\
     `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = pod::pod_rules(new);
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::new("spec");
    for list in ["containers", "initContainers"] {
        let list_at = at.child(list);
        if is.items(list).len() != was.items(list).len() {
            errors.push(list_at.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
    }
    if !deadline(&at.child("activeDeadlineSeconds"), is, was, &mut errors) {
        return errors;
    }
    tolerations(&at.child("tolerations"), is, was, &mut errors);
    scheduling_gates(&at.child("schedulingGates"), is, was, &mut errors);
    if is == was {
        return errors;
    }
    let gated = !was.items("schedulingGates").is_empty();
    let munged = with_old_changeable_fields(is, was, gated);
    if gated {
        gated_changes(&at, is, was, &mut errors);
    }
    if !same(&munged, was) {
        let changes = differences(&munged, was);
        errors.push(at.forbidden(format!("{CHANGEABLE}\n{changes}")));
    }
    errors
}

pub(crate) fn status_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("status");
    let (is, was) = (&new["status"], &old["status"]);
    for (index, condition) in is.items("conditions").iter().enumerate() {
        let kind = condition.text("type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            let at = at.child("conditions").index(index).child("Type");
            faults(&at, kind, names::qualified_name(kind), &mut errors);
        }
    }
    let nominated = is.text("nominatedNodeName");
    if !nominated.is_empty() && nominated != was.text("nominatedNodeName") {
        let at = at.child("nominatedNodeName");
        faults(&at, nominated, names::dns1123_subdomain(nominated), &mut errors);
        if !old["spec"].text("nodeName").is_empty() {
            errors.push(at.forbidden("may not be set on pods that are already bound to a node"));
        }
    }
    if let Some(generation) = is.int("observedGeneration").filter(|number| *number < 0) {
        let text = "must be a non-negative integer";
        errors.push(at.child("observedGeneration").invalid(generation, text));
    }
    if is.text("qosClass") != was.text("qosClass") {
        errors.push(at.child("qosClass").invalid(is.text("qosClass"), IMMUTABLE));
    }
    restarted(&at.child("containerStatuses"), new, old, &mut errors);
    addresses(&at.child("podIPs"), is.items("podIPs"), &mut errors);
    let hosts = is.items("hostIPs");
    if let Some(first) = hosts.first()
        && first.text("ip") != is.text("hostIP")
    {
        let at = at.child("hostIPs").index(0).child("ip");
        errors.push(at.invalid(first.text("ip"), "must be equal to `hostIP`"));
    }
    addresses(&at.child("hostIPs"), hosts, &mut errors);
    errors
}

pub(crate) fn ephemeral_containers(new: &Value, old: &Value) -> Vec<Error> {
    if old["metadata"]["annotations"].has(MIRROR_ANNOTATION) {
        return vec![Path::root().forbidden("static pods do not support ephemeral containers")];
    }
    let mut errors = pod::pod_rules(new);
    let at = Path::new("spec").child("ephemeralContainers");
    for was in old["spec"].items("ephemeralContainers") {
        let name = quote(was.text("name"));
        let is = new["spec"]
            .items("ephemeralContainers")
            .iter()
            .find(|one| one.text("name") == was.text("name"));
        match is {
            None => errors.push(
                at.forbidden(format!("existing ephemeral containers {name} may not be removed\n")),
            ),
            Some(is) if is != was => errors.push(at.forbidden(format!(
                "existing ephemeral containers {name} may not be changed\n{}",
                differences(is, was)
            ))),
            Some(_) => {}
        }
    }
    errors
}

/// False when nothing further is worth checking.
fn deadline(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) -> bool {
    let (is, was) = (is.int("activeDeadlineSeconds"), was.int("activeDeadlineSeconds"));
    let Some(seconds) = is else {
        if was.is_some() {
            let text = "must not update from a positive integer to nil value";
            errors.push(at.invalid(Value::Null, text));
        }
        return true;
    };
    if !(0..=DEADLINE_SECONDS_MAX).contains(&seconds) {
        let text = format!("must be between 0 and {DEADLINE_SECONDS_MAX}, inclusive");
        errors.push(at.invalid(seconds, text));
        return false;
    }
    if was.is_some_and(|was| was < seconds) {
        errors.push(at.invalid(seconds, "must be less than or equal to previous value"));
        return false;
    }
    true
}

fn tolerations(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Value::Object(fields) = &mut toleration {
            fields.remove("tolerationSeconds");
        }
        toleration
    };
    let kept: Vec<Value> = is.items("tolerations").iter().map(without_seconds).collect();
    if !was.items("tolerations").iter().all(|one| kept.contains(&without_seconds(one))) {
        let text = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(at.forbidden(text));
        return;
    }
    affinity::tolerations(at, is.items("tolerations"), errors);
}

fn scheduling_gates(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    for (index, gate) in is.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !was.items("schedulingGates").iter().any(|one| one.text("name") == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(at.index(index).child("name").forbidden(text));
        }
    }
}

/// The new spec with every field that may change put back, so that what is left must be equal.
fn with_old_changeable_fields(is: &Value, was: &Value, gated: bool) -> Value {
    let mut spec = is.clone();
    for list in ["containers", "initContainers"] {
        let before = was.items(list);
        if let Some(Value::Array(containers)) = spec.get_mut(list) {
            for (container, before) in containers.iter_mut().zip(before) {
                put_back(container, before, "image");
            }
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut spec, was, field);
    }
    let grace = |spec: &Value| spec.int("terminationGracePeriodSeconds");
    if grace(was).is_some_and(|seconds| seconds < 0) && grace(is) == Some(1) {
        put_back(&mut spec, was, "terminationGracePeriodSeconds");
    }
    if gated {
        put_back(&mut spec, was, "nodeSelector");
        let others = |spec: &Value| {
            let mut affinity = spec["affinity"].clone();
            if let Value::Object(fields) = &mut affinity {
                fields.remove("nodeAffinity");
            }
            affinity
        };
        if same(&others(is), &others(was)) {
            put_back(&mut spec, was, "affinity");
        }
    }
    spec
}

fn put_back(new: &mut Value, old: &Value, field: &str) {
    if let Value::Object(fields) = new {
        match old.get(field) {
            Some(value) => fields.insert(field.to_owned(), value.clone()),
            None => fields.remove(field),
        };
    }
}

/// A gated pod may still be narrowed to fewer nodes.
fn gated_changes(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
    for (key, value) in was.fields("nodeSelector").into_iter().flatten() {
        if &is["nodeSelector"][key.as_str()] != value {
            let selector = is["nodeSelector"].clone();
            errors.push(at.child("nodeSelector").invalid(selector, text));
            break;
        }
    }
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |spec: &Value| {
        spec["affinity"]["nodeAffinity"][required].items("nodeSelectorTerms").to_vec()
    };
    let (is_terms, was_terms) = (terms(is), terms(was));
    if was_terms.is_empty() {
        return;
    }
    let at = at.child("affinity").child("nodeAffinity").child(required).child("nodeSelectorTerms");
    if is_terms.len() != was_terms.len() {
        let text = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(at.invalid(is_terms, text));
        return;
    }
    for (index, (is, was)) in is_terms.iter().zip(&was_terms).enumerate() {
        let starts_with = |list: &str| is.items(list).starts_with(was.items(list));
        if !(starts_with("matchExpressions") && starts_with("matchFields")) {
            let text = "only additions are allowed (no mutations or deletions)";
            errors.push(at.index(index).invalid(is.clone(), text));
        }
    }
}

/// A container that has ended for good may not come back in the status.
fn restarted(at: &Path, new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let spec = &old["spec"];
    for (index, was) in old["status"].items("containerStatuses").iter().enumerate() {
        let ended = &was["state"]["terminated"];
        if ended.is_null() {
            continue;
        }
        let own = spec
            .items("containers")
            .iter()
            .find(|container| container.text("name") == was.text("name"));
        let policy = own
            .and_then(|container| container.opt_text("restartPolicy"))
            .unwrap_or_else(|| spec.text("restartPolicy"));
        let ruled = own.is_some_and(|one| !one.items("restartPolicyRules").is_empty());
        let failed = ended.int("exitCode").unwrap_or(0) != 0;
        if ruled || policy == "Always" || (policy == "OnFailure" && failed) {
            continue;
        }
        let back = new["status"]
            .items("containerStatuses")
            .iter()
            .any(|is| is.text("name") == was.text("name") && is["state"]["terminated"].is_null());
        if back {
            let text = "may not be transitioned to non-terminated state";
            errors.push(at.index(index).child("state").forbidden(text));
        }
    }
}

fn addresses(at: &Path, addresses: &[Value], errors: &mut Vec<Error>) {
    for (index, address) in addresses.iter().enumerate() {
        let ip = address.text("ip");
        faults(&at.index(index), ip, names::ip(ip), errors);
    }
    let sixes = addresses.iter().filter(|one| one.text("ip").contains(':')).count();
    if addresses.len() > 2 || (addresses.len() == 2 && sixes != 1) {
        let text = "may specify no more than one IP for each IP family";
        errors.push(at.invalid(addresses, text));
    }
}

/// The fields that differ, one a line.
fn differences(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    collect(&Path::new("spec"), new, old, &mut lines);
    lines.join("\n")
}

pub(crate) fn collect(at: &Path, new: &Value, old: &Value, lines: &mut Vec<String>) {
    if same(new, old) {
        return;
    }
    match (new, old) {
        (Value::Object(is), Value::Object(was)) => {
            let only_old = was.keys().filter(|key| !is.contains_key(*key));
            for key in is.keys().chain(only_old) {
                collect(&at.child(key), &new[key.as_str()], &old[key.as_str()], lines);
            }
        }
        (Value::Array(is), Value::Array(was)) if is.len() == was.len() => {
            for (index, (is, was)) in is.iter().zip(was).enumerate() {
                collect(&at.index(index), is, was, lines);
            }
        }
        _ => lines.push(format!("  {at}: {old} -> {new}")),
    }
}
