//! What may change in a pod by way of its subresource `resize`.

use serde_json::Value;

use super::{pod, same};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::pod::{is_sidecar, qos};

use super::pod_update::MIRROR_ANNOTATION;

/// What a resize may change of a container, or of the pod as a whole.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
const ONLY: &str = "only cpu and memory resources are mutable";

pub(crate) fn resize(new: &Value, old: &Value) -> Vec<Error> {
    let root = Path::root();
    if old["metadata"]["annotations"].has(MIRROR_ANNOTATION) {
        return vec![root.forbidden("static pods cannot be resized")];
    }
    if old["spec"]["os"].text("name") == "windows" {
        return vec![root.forbidden("windows pods cannot be resized")];
    }
    let mut errors = pod::pod_rules(new);
    let at = Path::new("spec");
    quality(&at, new, old, &mut errors);
    if !is_supported(old) {
        errors.push(at.forbidden("Pod running on node without support for resize"));
    }
    let (is, was) = (&new["spec"], &old["spec"]);
    whole(&at, is, was, &mut errors);
    let mut moved = Vec::new();
    for list in ["containers", "initContainers"] {
        order(&at.child(list), list, is.items(list), was.items(list), &mut moved);
    }
    if !moved.is_empty() {
        errors.extend(moved);
        return errors;
    }
    for list in ["initContainers", "containers"] {
        let both = is.items(list).iter().zip(was.items(list));
        for (index, (is, was)) in both.enumerate() {
            let at = at.child(list).index(index).child("resources");
            removed(&at, "resource", &is["resources"], &was["resources"], &mut errors);
        }
    }
    others(&at, is, was, &mut errors);
    errors
}

fn quality(at: &Path, new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let was = old["status"].opt_text("qosClass").unwrap_or_else(|| qos::class(old));
    if qos::class(new) != was {
        let text = "Pod QOS Class may not change as a result of resizing";
        errors.push(at.invalid(new["status"].text("qosClass"), text));
    }
}

/// A node that can resize says what its running containers have.
fn is_supported(old: &Value) -> bool {
    let statuses = old["status"].items("containerStatuses");
    let running = statuses.iter().find(|one| one["state"].has("running"));
    running.is_none_or(|one| one.has("resources"))
}

/// Resources of the pod as a whole.
fn whole(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    let at_resources = at.child("resources");
    if was.has("resources") && !is.has("resources") {
        errors.push(at_resources.forbidden("pod-level resources cannot be removed"));
        return;
    }
    let (is, was) = (&is["resources"], &was["resources"]);
    removed(&at_resources, "pod-level resource", is, was, errors);
    if !same_but_resizable(is, was) {
        errors.push(at.forbidden(format!("{ONLY} at pod-level")));
    }
}

/// Containers stay, each in its place.
fn order(at: &Path, list: &str, is: &[Value], was: &[Value], errors: &mut Vec<Error>) {
    if is.len() != was.len() {
        errors.push(at.forbidden(format!("{list} may not be added or removed on resize")));
        return;
    }
    for (index, (is, was)) in is.iter().zip(was).enumerate() {
        if is.text("name") != was.text("name") {
            let text = format!("{list} may not be renamed or reordered on resize");
            errors.push(at.index(index).child("name").forbidden(text));
        }
    }
}

fn removed(at: &Path, what: &str, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    for field in ["requests", "limits"] {
        let mut before = was.fields(field).into_iter().flatten();
        if before.any(|(name, _)| !is[field].has(name)) {
            errors.push(at.child(field).forbidden(format!("{what} {field} cannot be removed")));
        }
    }
}

/// Nothing but processors and memory changes, and of init containers only in sidecars.
fn others(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    for (is, was) in is.items("containers").iter().zip(was.items("containers")) {
        if !same_but_resizable(&is["resources"], &was["resources"]) {
            errors.push(at.forbidden(ONLY));
        }
    }
    for (is, was) in is.items("initContainers").iter().zip(was.items("initContainers")) {
        if is_sidecar(was) {
            if !same_but_resizable(&is["resources"], &was["resources"]) {
                let text = "only cpu and memory resources for sidecar containers are mutable";
                errors.push(at.forbidden(text));
            }
        } else if !same(&is["resources"], &was["resources"]) {
            let text = "resources for non-sidecar init containers are immutable";
            errors.push(at.forbidden(text));
        }
    }
    if errors.is_empty() && !same(&without_resources(is), &without_resources(was)) {
        errors.push(at.forbidden(ONLY));
    }
}

fn same_but_resizable(is: &Value, was: &Value) -> bool {
    let rest = |resources: &Value| {
        let mut rest = resources.clone();
        for field in ["requests", "limits"] {
            if let Some(Value::Object(amounts)) = rest.get_mut(field) {
                amounts.retain(|name, _| !RESIZABLE.contains(&name.as_str()));
            }
            if same(&rest[field], &Value::Null)
                && let Value::Object(fields) = &mut rest
            {
                fields.remove(field);
            }
        }
        rest
    };
    same(&rest(is), &rest(was))
}

/// A spec without what a resize may change.
fn without_resources(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(fields) = &mut spec {
        fields.remove("resources");
    }
    for list in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else { continue };
        for fields in containers.iter_mut().filter_map(Value::as_object_mut) {
            fields.remove("resources");
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": containers}});
        crate::defaults::pod::pod(&mut pod);
        pod
    }

    fn container(name: &str, requests: &Value, limits: &Value) -> Value {
        json!({"name": name, "image": "i",
            "resources": {"requests": requests, "limits": limits}})
    }

    fn texts(new: &Value, old: &Value) -> Vec<String> {
        resize(new, old).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn processors_and_memory_change_both_ways() {
        let old = pod(&json!([container("c", &json!({"cpu": "1"}), &json!({"memory": "2Gi"}))]));
        let new = pod(&json!([container(
            "c",
            &json!({"cpu": "2", "memory": "1Gi"}),
            &json!({"memory": "1Gi", "cpu": "3"})
        )]));
        assert_eq!(texts(&new, &old), Vec::<String>::new());
    }

    #[test]
    fn refusals_have_upstreams_words() {
        let none = json!({});
        let one = json!({"cpu": "1"});
        let old = pod(&json!([container("a", &one, &none), container("b", &one, &one)]));
        let changed = |containers: Value| texts(&pod(&containers), &old);
        let swapped = changed(json!([container("b", &one, &none), container("a", &one, &one)]));
        assert_eq!(
            swapped,
            [
                "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
                "spec.containers[1].name: Forbidden: containers may not be renamed or reordered on resize",
            ]
        );
        assert_eq!(
            changed(json!([container("a", &one, &none)])),
            ["spec.containers: Forbidden: containers may not be added or removed on resize"]
        );
        assert_eq!(
            changed(json!([container("a", &none, &none), container("b", &one, &none)])),
            [
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
                "spec.containers[1].resources.limits: Forbidden: resource limits cannot be removed",
            ]
        );
        let more = json!({"cpu": "1", "ephemeral-storage": "1Gi"});
        assert_eq!(
            changed(json!([container("a", &more, &none), container("b", &one, &one)])),
            ["spec: Forbidden: only cpu and memory resources are mutable"]
        );
        let bare = pod(&json!([container("a", &none, &none)]));
        assert_eq!(
            texts(&pod(&json!([container("a", &one, &none)])), &bare),
            ["spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing"]
        );
    }

    #[test]
    fn a_node_that_tells_nothing_of_resources_cannot_resize() {
        let mut old = pod(&json!([container("c", &json!({"cpu": "1"}), &json!({}))]));
        let status = json!({"name": "c", "state": {"running": {}}});
        old["status"] = json!({"containerStatuses": [status]});
        let mut new = old.clone();
        new["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
        assert_eq!(
            texts(&new, &old),
            ["spec: Forbidden: Pod running on node without support for resize"]
        );
    }

    #[test]
    fn of_init_containers_only_sidecars_change() {
        let init = |policy: &Value, cpu: &str| {
            let mut pod = pod(&json!([container("c", &json!({"cpu": "1"}), &json!({}))]));
            let mut first = container("i", &json!({"cpu": cpu}), &json!({}));
            first["restartPolicy"] = policy.clone();
            pod["spec"]["initContainers"] = json!([first]);
            crate::defaults::pod::pod(&mut pod);
            pod
        };
        let always = json!("Always");
        assert_eq!(texts(&init(&always, "2"), &init(&always, "1")), Vec::<String>::new());
        let once = Value::Null;
        assert_eq!(
            texts(&init(&once, "2"), &init(&once, "1")),
            ["spec: Forbidden: resources for non-sidecar init containers are immutable"]
        );
    }
}
