//! ReplicationControllers and PodTemplates.

use serde_json::{Map, Value};

use super::{not_negative, pod, warnings, workload};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;
use crate::selector::LabelSelector;

pub(crate) fn controller(controller: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (at, spec) = (Path::new("spec"), &controller["spec"]);
    let seconds = spec.int("minReadySeconds").unwrap_or(0);
    not_negative(&at.child("minReadySeconds"), seconds, &mut errors);
    let is_empty = spec.fields("selector").is_none_or(Map::is_empty);
    if is_empty {
        errors.push(at.child("selector").required(""));
    }
    not_negative(&at.child("replicas"), spec.int("replicas").unwrap_or(0), &mut errors);
    let (at, template) = (at.child("template"), &spec["template"]);
    if template.is_null() {
        errors.push(at.required(""));
        return errors;
    }
    if !is_empty && !LabelSelector::from_map(&spec["selector"]).matches_object(template) {
        let value = template["metadata"]["labels"].clone();
        let at = at.child("metadata").child("labels");
        errors.push(at.invalid(value, "`selector` does not match template `labels`"));
    }
    pod::template(&at, template, &mut errors);
    let policy = template["spec"].text("restartPolicy");
    if policy != "Always" {
        let at = at.child("spec").child("restartPolicy");
        errors.push(at.not_supported(policy, &["Always"]));
    }
    if template["spec"].has("activeDeadlineSeconds") {
        let text = "activeDeadlineSeconds in ReplicationController is not Supported";
        errors.push(at.child("spec").child("activeDeadlineSeconds").forbidden(text));
    }
    errors
}

pub(crate) fn controller_update(new: &Value, _: &Value) -> Vec<Error> {
    controller(new)
}

pub(crate) fn controller_status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let bounded = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    let mut counts = vec!["replicas"];
    counts.extend(bounded);
    counts.push("observedGeneration");
    workload::status(&new["status"], &counts, &bounded, &mut errors);
    errors
}

pub(crate) fn controller_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut texts = Vec::new();
    let name = new["metadata"].text("name");
    let found = names::dns1123_label(name);
    if old.is_none() && !name.is_empty() && !found.is_empty() {
        texts.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in \
             surprising behavior; a DNS label is recommended: [{}]",
            found.join(" ")
        ));
    }
    texts.extend(warnings::workload(new, old));
    texts
}

pub(crate) fn pod_template(template: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    pod::template(&Path::new("template"), &template["template"], &mut errors);
    errors
}

pub(crate) fn pod_template_update(new: &Value, _: &Value) -> Vec<Error> {
    pod_template(new)
}

pub(crate) fn pod_template_warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    if old.is_some_and(|old| old["template"] == new["template"]) {
        return Vec::new();
    }
    let mut texts = Vec::new();
    warnings::pod_like(&Path::new("template"), &new["template"], &mut texts);
    texts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn made(spec: &Value) -> (Value, Vec<String>) {
        let mut made = json!({"apiVersion": "v1", "kind": "ReplicationController",
            "metadata": {"name": "rc", "namespace": "default"}, "spec": spec});
        let row = kinds::find_kind("", "v1", "ReplicationController").unwrap();
        (row.hooks.default.unwrap())(&mut made);
        let errors = controller(&made).iter().map(ToString::to_string).collect();
        (made, errors)
    }

    #[test]
    fn selector_and_labels_are_the_templates() {
        let containers = json!([{"name": "c", "image": "i"}]);
        let template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}});
        let (made, errors) = made(&json!({"template": template}));
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(made["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(made["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn without_labels_or_template_nothing_is_selected() {
        let (_, errors) = made(&json!({}));
        assert_eq!(errors, ["spec.selector: Required value", "spec.template: Required value"]);
    }
}
