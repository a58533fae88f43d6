//! Volumes, claims and classes, in upstream's words.

use serde_json::Value;

use super::{affinity, faults, immutable, label_selector, resources, same, volume as pod_volume};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount;
use crate::kinds::storage::class_of;
use crate::names;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
const NOT_POSITIVE: &str = "must be greater than zero";
const CLAIM_IMMUTABLE: &str = "spec is immutable after creation except resources.requests and \
                               volumeAttributesClassName for bound claims";
const SOURCE_IMMUTABLE: &str = "spec.persistentvolumesource is immutable after creation";
/// Entries and bytes of a class's parameters.
const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;

/// The kinds of storage that a volume may be.
pub(crate) const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

pub(crate) fn volume(volume: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    volume_spec(&Path::new("spec"), volume, &mut errors);
    errors
}

fn volume_spec(at: &Path, volume: &Value, errors: &mut Vec<Error>) {
    let spec = &volume["spec"];
    if spec.items("accessModes").is_empty() {
        errors.push(at.child("accessModes").required(""));
    }
    access_modes(&at.child("accessModes"), spec, errors);
    capacity(&at.child("capacity"), &spec["capacity"], errors);
    let policy = spec.text("persistentVolumeReclaimPolicy");
    let policy_at = at.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        errors.push(policy_at.not_supported(policy, &POLICIES));
    }
    node_affinity(&at.child("nodeAffinity"), &spec["nodeAffinity"], errors);
    sources(at, spec, errors);
    let root =
        spec["hostPath"].opt_text("path").is_some_and(|path| path.trim_matches('/').is_empty());
    if root && policy == "Recycle" {
        errors.push(policy_at.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    class_name(&at.child("storageClassName"), class_of(volume), errors);
    volume_mode(&at.child("volumeMode"), spec, errors);
    if let Some(class) = spec.opt_text("volumeAttributesClassName") {
        let class_at = at.child("volumeAttributesClassName");
        if class.is_empty() {
            errors.push(class_at.required("an empty string is disallowed"));
        } else {
            faults(&class_at, class, names::dns1123_subdomain(class), errors);
        }
        if !spec.has("csi") {
            let text = "has to be specified when using volumeAttributesClassName";
            errors.push(at.child("csi").required(text));
        }
    }
}

fn access_modes(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let (mut alone, mut other) = (false, false);
    for mode in spec.items("accessModes").iter().filter_map(Value::as_str) {
        if !MODES.contains(&mode) {
            errors.push(at.not_supported(mode, &MODES));
        }
        if mode == "ReadWriteOncePod" { alone = true } else { other = true }
    }
    if alone && other {
        errors.push(at.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

fn capacity(at: &Path, capacity: &Value, errors: &mut Vec<Error>) {
    let Some(amounts) = capacity.as_object().filter(|amounts| !amounts.is_empty()) else {
        errors.push(at.required(""));
        return;
    };
    if !amounts.contains_key("storage") || amounts.len() > 1 {
        errors.push(at.not_supported(capacity.clone(), &["storage"]));
    }
    for (resource, value) in amounts {
        let at = at.key(resource);
        resources::amount(&at, resource, value, errors);
        positive(&at, value, errors);
    }
}

fn positive(at: &Path, value: &Value, errors: &mut Vec<Error>) {
    if let Some(text) = value.as_str()
        && amount::parse(text).is_some_and(|amount| amount <= 0)
    {
        errors.push(at.invalid(text, NOT_POSITIVE));
    }
}

fn node_affinity(at: &Path, affinity: &Value, errors: &mut Vec<Error>) {
    if affinity.is_null() {
        return;
    }
    let at = at.child("required");
    if !affinity.has("required") {
        errors.push(at.required("must specify required node constraints"));
        return;
    }
    affinity::node_selector(&at, &affinity["required"], errors);
}

fn sources(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let mut found = false;
    for kind in SOURCES.iter().filter(|kind| spec.has(kind)) {
        let source_at = at.child(kind);
        if found {
            errors.push(source_at.forbidden("may not specify more than 1 volume type"));
            continue;
        }
        found = true;
        source(&source_at, kind, spec, errors);
    }
    if !found {
        errors.push(at.required("must specify a volume type"));
    }
}

fn source(at: &Path, kind: &str, spec: &Value, errors: &mut Vec<Error>) {
    let from = &spec[kind];
    let require = |field: &str, errors: &mut Vec<Error>| {
        if from.text(field).is_empty() {
            errors.push(at.child(field).required(""));
        }
    };
    match kind {
        "hostPath" => pod_volume::host_path(at, from, errors),
        "local" => {
            let path = from.text("path");
            if path.is_empty() {
                errors.push(at.child("path").required(""));
            } else {
                pod_volume::no_backsteps(&at.child("path"), path, errors);
            }
            if !spec.has("nodeAffinity") {
                let at = Path::new("metadata").child("annotations");
                errors.push(at.required("Local volume requires node affinity"));
            }
        }
        "csi" => {
            require("driver", errors);
            require("volumeHandle", errors);
        }
        "nfs" => {
            require("server", errors);
            require("path", errors);
            if !from.text("path").starts_with('/') {
                errors
                    .push(at.child("path").invalid(from.text("path"), "must be an absolute path"));
            }
        }
        "iscsi" => {
            require("targetPortal", errors);
            require("iqn", errors);
        }
        _ => {}
    }
}

fn class_name(at: &Path, class: Option<&str>, errors: &mut Vec<Error>) {
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        faults(at, class, names::dns1123_subdomain(class), errors);
    }
}

fn volume_mode(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    if let Some(mode) = spec.opt_text("volumeMode")
        && !VOLUME_MODES.contains(&mode)
    {
        errors.push(at.not_supported(mode, &VOLUME_MODES));
    }
}

pub(crate) fn volume_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = volume(new);
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::new("spec");
    if SOURCES.iter().any(|kind| !same(&munged(is, was, kind), &was[*kind])) {
        errors.push(at.child("persistentvolumesource").forbidden(SOURCE_IMMUTABLE));
    }
    immutable(&Path::new("volumeMode"), &is["volumeMode"], &was["volumeMode"], &mut errors);
    if was.has("nodeAffinity") && is["nodeAffinity"] != was["nodeAffinity"] {
        let text = "field is immutable, except for updating from beta label to GA";
        errors.push(Path::new("nodeAffinity").invalid(is["nodeAffinity"].clone(), text));
    }
    errors
}

/// A source with the fields put back that may be set later on.
fn munged(is: &Value, was: &Value, kind: &str) -> Value {
    let mut source = is[kind].clone();
    if kind == "csi" && was["csi"].is_object() {
        let field = "controllerExpandSecretRef";
        if !was["csi"].has(field)
            && let Value::Object(fields) = &mut source
        {
            fields.remove(field);
        }
    }
    source
}

pub(crate) fn claim(claim: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    claim_spec(&Path::new("spec"), &claim["spec"], &mut errors);
    errors
}

/// The spec of a claim or of a template for one.
pub(crate) fn claim_spec(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    if spec.items("accessModes").is_empty() {
        errors.push(at.child("accessModes").required("at least 1 access mode is required"));
    }
    if spec.has("selector") {
        label_selector(&at.child("selector"), &spec["selector"], errors);
    }
    access_modes(&at.child("accessModes"), spec, errors);
    let storage_at = at.child("resources").key("storage");
    let storage = &spec["resources"]["requests"]["storage"];
    if storage.is_null() {
        errors.push(storage_at.required(""));
    } else {
        resources::amount(&storage_at, "storage", storage, errors);
        positive(&storage_at, storage, errors);
    }
    class_name(&at.child("storageClassName"), spec.opt_text("storageClassName"), errors);
    volume_mode(&at.child("volumeMode"), spec, errors);
    data_source(&at.child("dataSource"), &spec["dataSource"], errors);
    data_source(&at.child("dataSourceRef"), &spec["dataSourceRef"], errors);
    let both = spec.has("dataSource") && spec.has("dataSourceRef");
    if both
        && !spec["dataSourceRef"].has("namespace")
        && spec["dataSource"] != spec["dataSourceRef"]
    {
        let text = "must match dataSourceRef";
        errors.push(at.child("dataSource").invalid(spec["dataSource"].clone(), text));
    }
    if let Some(class) = spec.opt_text("volumeAttributesClassName").filter(|one| !one.is_empty()) {
        let at = at.child("volumeAttributesClassName");
        faults(&at, class, names::dns1123_subdomain(class), errors);
    }
}

fn data_source(at: &Path, source: &Value, errors: &mut Vec<Error>) {
    if source.is_null() {
        return;
    }
    if source.text("name").is_empty() {
        errors.push(at.child("name").required(""));
    }
    if source.text("kind").is_empty() {
        errors.push(at.child("kind").required(""));
    }
    let group = source.text("apiGroup");
    if group.is_empty() && source.text("kind") != "PersistentVolumeClaim" && source.has("kind") {
        let text = "apiGroup is required when kind is not 'PersistentVolumeClaim'";
        errors.push(at.invalid(source.text("kind"), text));
    }
}

pub(crate) fn claim_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = claim(new);
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::new("spec");
    if !same(&with_old_changeable(new, old), was) {
        let mut lines = Vec::new();
        super::pod_update::collect(&at, is, was, &mut lines);
        errors.push(at.forbidden(format!("{CLAIM_IMMUTABLE}\n{}", lines.join("\n"))));
    }
    shrinks(&at, new, old, &mut errors);
    immutable(&Path::new("volumeMode"), &is["volumeMode"], &was["volumeMode"], &mut errors);
    let attributes = "volumeAttributesClassName";
    if was.has(attributes) && !is.has(attributes) {
        let text = "update from non-nil value to nil is forbidden";
        errors.push(at.child(attributes).forbidden(text));
    }
    errors
}

/// The new spec with those fields put back that a claim may change.
fn with_old_changeable(new: &Value, old: &Value) -> Value {
    let was = &old["spec"];
    let mut spec = new["spec"].clone();
    let Value::Object(fields) = &mut spec else { return spec };
    let mut put_back = |field: &str| match was.get(field) {
        Some(value) => drop(fields.insert(field.to_owned(), value.clone())),
        None => drop(fields.remove(field)),
    };
    if was.text("volumeName").is_empty() {
        put_back("volumeName");
    }
    // A claim that names no class may be given the default one later.
    if class_of(old).is_none() {
        put_back("storageClassName");
    }
    let bound = old["status"].text("phase") == "Bound";
    if bound {
        put_back("volumeAttributesClassName");
    }
    let storage = was["resources"]["requests"]["storage"].clone();
    if bound && !storage.is_null() && spec["resources"]["requests"].is_object() {
        spec["resources"]["requests"]["storage"] = storage;
    }
    spec
}

/// A claim shrinks at most to above what it has got.
fn shrinks(at: &Path, new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let size = |of: &Value| of.as_str().and_then(amount::parse);
    let wanted = size(&new["spec"]["resources"]["requests"]["storage"]);
    let before = size(&old["spec"]["resources"]["requests"]["storage"]);
    let held = size(&old["status"]["capacity"]["storage"]).unwrap_or(0);
    if let (Some(wanted), Some(before)) = (wanted, before)
        && wanted < before
        && wanted <= held
    {
        let at = at.child("resources").child("requests").child("storage");
        errors.push(at.forbidden("field can not be less than status.capacity"));
    }
}

pub(crate) fn claim_status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("status");
    if new["status"].items("accessModes").is_empty() && new["status"].has("capacity") {
        let text = "capacity and accessModes must be set together";
        errors.push(at.child("accessModes").required(text));
    }
    for (resource, value) in new["status"].fields("capacity").into_iter().flatten() {
        resources::amount(&at.child("capacity").key(resource), resource, value, &mut errors);
    }
    errors
}

pub(crate) fn class(class: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let provisioner = class.text("provisioner");
    let at = Path::new("provisioner");
    if provisioner.is_empty() {
        errors.push(at.required(""));
    } else {
        faults(&at, provisioner, names::qualified_name(&provisioner.to_lowercase()), &mut errors);
    }
    parameters(&Path::new("parameters"), &class["parameters"], &mut errors);
    let policy = class.text("reclaimPolicy");
    if !policy.is_empty() && !["Delete", "Retain"].contains(&policy) {
        errors.push(Path::new("reclaimPolicy").not_supported(policy, &["Delete", "Retain"]));
    }
    let modes = ["Immediate", "WaitForFirstConsumer"];
    super::one_of(
        &Path::new("volumeBindingMode"),
        class.text("volumeBindingMode"),
        &modes,
        "",
        &mut errors,
    );
    topologies(&Path::new("allowedTopologies"), class, &mut errors);
    errors
}

/// Parameters of classes: not too many, none without a key.
pub(crate) fn parameters(at: &Path, parameters: &Value, errors: &mut Vec<Error>) {
    let Some(all) = parameters.as_object() else { return };
    if all.len() > PARAMETERS_MAX {
        let text = format!("The total length of parameters must not exceed {PARAMETERS_MAX}");
        errors.push(at.invalid(format!("{} entries", all.len()), text));
        return;
    }
    let mut bytes = 0;
    for (key, value) in all {
        if key.is_empty() {
            errors.push(at.invalid(key.as_str(), "field can not be empty."));
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETER_BYTES_MAX {
        errors.push(at.too_long(PARAMETER_BYTES_MAX));
    }
}

fn topologies(at: &Path, class: &Value, errors: &mut Vec<Error>) {
    for (index, term) in class.items("allowedTopologies").iter().enumerate() {
        let at = at.index(index).child("matchLabelExpressions");
        for (index, requirement) in term.items("matchLabelExpressions").iter().enumerate() {
            let at = at.index(index);
            let key = requirement.text("key");
            faults(&at.child("key"), key, names::qualified_name(key), errors);
            if requirement.items("values").is_empty() {
                errors.push(at.child("values").required(""));
            }
        }
    }
}

pub(crate) fn class_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = class(new);
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        if !same(&new[field], &old[field]) {
            let text = format!("updates to {field} are forbidden.");
            errors.push(Path::new(field).forbidden(text));
        }
    }
    let mode = "volumeBindingMode";
    immutable(&Path::new(mode), &new[mode], &old[mode], &mut errors);
    errors
}
