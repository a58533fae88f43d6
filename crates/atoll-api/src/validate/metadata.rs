//! ObjectMeta: the same rules for every kind.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{IMMUTABLE, faults, immutable, not_negative};
use crate::access::Access as _;
use crate::field::{Error, Path, quote};
use crate::kinds::Scope;
use crate::names;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Checks the metadata of a new object.
#[must_use]
pub fn create(object: &Value, scope: Scope, rule: names::Rule) -> Vec<Error> {
    let at = Path::new("metadata");
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    let generate = metadata.text("generateName");
    if !generate.is_empty() {
        faults(&at.child("generateName"), generate, rule(generate, true), &mut errors);
    }
    let name = metadata.text("name");
    if name.is_empty() {
        errors.push(at.child("name").required("name or generateName is required"));
    } else {
        faults(&at.child("name"), name, rule(name, false), &mut errors);
    }
    let namespace = metadata.text("namespace");
    let namespace_at = at.child("namespace");
    match scope {
        Scope::Namespaced if namespace.is_empty() => errors.push(namespace_at.required("")),
        Scope::Namespaced => {
            faults(&namespace_at, namespace, names::dns1123_label(namespace), &mut errors);
        }
        Scope::Cluster if namespace.is_empty() => {}
        Scope::Cluster => errors.push(namespace_at.forbidden("not allowed on this type")),
    }
    common(&at, metadata, &mut errors);
    finalizers(&at.child("finalizers"), metadata.items("finalizers"), &mut errors);
    errors
}

/// Groups whose objects upstream checks by the rules of its core: a finalizer of theirs is a
/// known one or has a domain.
const CORE_RULES: [&str; 7] =
    ["", "apps", "autoscaling", "batch", "networking.k8s.io", "policy", "storage.k8s.io"];

/// Checks what only the core's own groups ask for; source: `ValidateObjectMeta` of upstream's
/// core validation.
#[must_use]
pub fn core_rules(group: &str, object: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    if !CORE_RULES.contains(&group) {
        return errors;
    }
    let at = Path::new("metadata").child("finalizers");
    for (index, finalizer) in object["metadata"].items("finalizers").iter().enumerate() {
        let name = finalizer.as_str().unwrap_or("");
        if !name.contains('/') && !["kubernetes", ORPHAN, FOREGROUND].contains(&name) {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(at.index(index).invalid(name, text));
        }
    }
    errors
}

/// Checks the metadata of a changed object.
#[must_use]
pub fn update(new: &Value, old: &Value) -> Vec<Error> {
    let at = Path::new("metadata");
    let (is, was) = (&new["metadata"], &old["metadata"]);
    let mut errors = Vec::new();
    if was.has("deletionTimestamp") {
        no_new_finalizers(&at.child("finalizers"), is, was, &mut errors);
    }
    if is.text("resourceVersion").is_empty() {
        errors.push(at.child("resourceVersion").invalid("", "must be specified for an update"));
    }
    let (generation, before) = (is.int("generation"), was.int("generation"));
    if generation.unwrap_or(0) < before.unwrap_or(0) {
        let generation = generation.unwrap_or(0);
        errors.push(at.child("generation").invalid(generation, "must not be decremented"));
    }
    for field in ["name", "namespace", "uid"] {
        if is.text(field) != was.text(field) {
            errors.push(at.child(field).invalid(is.text(field), IMMUTABLE));
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(&at.child(field), &is[field], &was[field], &mut errors);
    }
    common(&at, is, &mut errors);
    errors
}

/// Checks labels: keys and values.
pub(crate) fn labels(at: &Path, labels: &Value, errors: &mut Vec<Error>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        faults(at, key, names::qualified_name(key), errors);
        let value = value.as_str().unwrap_or("");
        faults(at, value, names::label_value(value), errors);
    }
}

/// Checks annotations: keys, and the size of all together.
pub(crate) fn annotations(at: &Path, annotations: &Value, errors: &mut Vec<Error>) {
    let mut bytes = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // The case of letters does not count here.
        faults(at, key, names::qualified_name(&key.to_lowercase()), errors);
        bytes += key.len() + value.as_str().unwrap_or("").len();
    }
    if bytes > names::ANNOTATIONS_BYTES_MAX {
        errors.push(at.too_long(names::ANNOTATIONS_BYTES_MAX));
    }
}

fn common(at: &Path, metadata: &Value, errors: &mut Vec<Error>) {
    not_negative(&at.child("generation"), metadata.int("generation").unwrap_or(0), errors);
    labels(&at.child("labels"), &metadata["labels"], errors);
    annotations(&at.child("annotations"), &metadata["annotations"], errors);
    owners(&at.child("ownerReferences"), &metadata["ownerReferences"], errors);
}

fn owners(at: &Path, references: &Value, errors: &mut Vec<Error>) {
    let mut controller: Option<String> = None;
    for (index, reference) in references.as_array().into_iter().flatten().enumerate() {
        owner(&at.index(index), reference, errors);
        if !reference.flag("controller") {
            continue;
        }
        let name = format!("{}/{}", reference.text("kind"), reference.text("name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => errors.push(at.invalid(
                references.clone(),
                format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {name}"
                ),
            )),
        }
    }
}

fn owner(at: &Path, reference: &Value, errors: &mut Vec<Error>) {
    let api_version = reference.text("apiVersion");
    let version = api_version.rsplit('/').next().unwrap_or("");
    if api_version.is_empty() {
        errors.push(at.child("apiVersion").required("must not be empty"));
    } else if version.is_empty() || api_version.matches('/').count() > 1 {
        let text = "must be <group>/<version> or <version>";
        errors.push(at.child("apiVersion").invalid(api_version, text));
    }
    for field in ["kind", "name", "uid"] {
        if reference.text(field).is_empty() {
            errors.push(at.child(field).required("must not be empty"));
        }
    }
    if api_version == "v1" && reference.text("kind") == "Event" {
        errors.push(
            at.invalid(reference.clone(), "/v1, Kind=Event is disallowed from being an owner"),
        );
    }
}

fn finalizers(at: &Path, finalizers: &[Value], errors: &mut Vec<Error>) {
    for finalizer in finalizers {
        let finalizer = finalizer.as_str().unwrap_or("");
        faults(at, finalizer, names::qualified_name(finalizer), errors);
    }
    let holds = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if holds(ORPHAN) && holds(FOREGROUND) {
        let text = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(at.invalid(finalizers, text));
    }
}

fn no_new_finalizers(at: &Path, new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let names = |metadata: &Value| -> BTreeSet<String> {
        metadata.items("finalizers").iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let before = names(old);
    let added: Vec<String> =
        names(new).difference(&before).map(|finalizer| quote(finalizer)).collect();
    if !added.is_empty() {
        errors.push(at.forbidden(format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers \
             []string{{{}}}",
            added.join(", ")
        )));
    }
}
