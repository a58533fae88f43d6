//! Environment variables: names, and where their values come from.

use serde_json::Value;

use super::{faults, volume};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::amount::{UNIT, parse};
use crate::names;

/// Fields of a pod that may be read, sorted.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const KNOWN_FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: [&str; 5] =
    ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

pub(crate) fn variables(at: &Path, variables: &[Value], errors: &mut Vec<Error>) {
    for (index, variable) in variables.iter().enumerate() {
        let at = at.index(index);
        let name = variable.text("name");
        if name.is_empty() {
            errors.push(at.child("name").required(""));
        } else {
            faults(&at.child("name"), name, names::relaxed_env_var_name(name), errors);
        }
        if variable.has("valueFrom") {
            value_from(&at.child("valueFrom"), variable, errors);
        }
    }
}

pub(crate) fn sources(at: &Path, sources: &[Value], errors: &mut Vec<Error>) {
    for (index, source) in sources.iter().enumerate() {
        let item_at = at.index(index);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            faults(&item_at.child("prefix"), prefix, names::relaxed_env_var_name(prefix), errors);
        }
        let mut found = 0;
        for field in ["configMapRef", "secretRef"] {
            if !source.has(field) {
                continue;
            }
            found += 1;
            let name_at = item_at.child(field).child("name");
            match source[field].text("name") {
                "" => errors.push(name_at.required("")),
                name => faults(&name_at, name, names::subdomain_rule(name, true), errors),
            }
        }
        match found {
            0 => errors.push(at.invalid("", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => {
                errors.push(at.invalid("", "may not have more than one field specified at a time"));
            }
        }
    }
}

fn value_from(at: &Path, variable: &Value, errors: &mut Vec<Error>) {
    let from = &variable["valueFrom"];
    let mut found = 0;
    for source in SOURCES {
        if !from.has(source) {
            continue;
        }
        found += 1;
        let (at, source_value) = (at.child(source), &from[source]);
        match source {
            "fieldRef" => field_reference(&at, source_value, &ENV_FIELDS, errors),
            "resourceFieldRef" => resource_reference(&at, source_value, false, errors),
            "fileKeyRef" => file_key(&at, source_value, errors),
            _ => key_reference(&at, source_value, errors),
        }
    }
    if found == 0 {
        let text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                    `secretKeyRef` or `fileKeyRef`";
        errors.push(at.invalid("", text));
    } else if !variable.text("value").is_empty() {
        errors.push(at.invalid("", "may not be specified when `value` is not empty"));
    } else if found > 1 {
        errors.push(at.invalid("", "may not have more than one field specified at a time"));
    }
}

/// A downward API file in a volume: a field or a resource under a path.
pub(crate) fn downward_file(at: &Path, file: &Value, errors: &mut Vec<Error>) {
    let path = file.text("path");
    if path.is_empty() {
        errors.push(at.child("path").required(""));
    }
    volume::local_path(&at.child("path"), path, errors);
    if file.has("fieldRef") {
        field_reference(&at.child("fieldRef"), &file["fieldRef"], &VOLUME_FIELDS, errors);
        if file.has("resourceFieldRef") {
            let text = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.push(at.invalid("resource", text));
        }
    } else if file.has("resourceFieldRef") {
        let at = at.child("resourceFieldRef");
        resource_reference(&at, &file["resourceFieldRef"], true, errors);
    } else {
        errors.push(at.required("one of fieldRef and resourceFieldRef is required"));
    }
    volume::mode(&at.child("mode"), file.int("mode"), errors);
}

fn field_reference(at: &Path, reference: &Value, allowed: &[&str], errors: &mut Vec<Error>) {
    if reference.text("apiVersion").is_empty() {
        errors.push(at.child("apiVersion").required(""));
        return;
    }
    let path = reference.text("fieldPath");
    let path_at = at.child("fieldPath");
    if path.is_empty() {
        errors.push(path_at.required(""));
        return;
    }
    let subscripted = path.strip_suffix("']").and_then(|rest| rest.split_once("['"));
    let base = subscripted.map_or(path, |(base, _)| base);
    if !KNOWN_FIELDS.contains(&base) {
        let text = format!("error converting fieldPath: field label not supported: {path}");
        errors.push(path_at.invalid(path, text));
        return;
    }
    match subscripted {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            faults(at, &key, names::qualified_name(&key), errors);
        }
        Some(("metadata.labels", key)) => faults(at, key, names::qualified_name(key), errors),
        Some((base, _)) => errors.push(at.invalid(base, "does not support subscript")),
        None if allowed.contains(&path) => {}
        None => errors.push(path_at.not_supported(path, allowed)),
    }
}

fn resource_reference(at: &Path, reference: &Value, in_volume: bool, errors: &mut Vec<Error>) {
    let resource = reference.text("resource");
    let huge =
        resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && reference.text("containerName").is_empty() {
        errors.push(at.child("containerName").required(""));
    } else if resource.is_empty() {
        errors.push(at.child("resource").required(""));
    } else if !RESOURCES.contains(&resource) && !huge {
        errors.push(at.child("resource").not_supported(resource, &RESOURCES));
    }
    divisor(&at.child("divisor"), resource, &reference["divisor"], errors);
}

fn divisor(at: &Path, resource: &str, divisor: &Value, errors: &mut Vec<Error>) {
    let text = divisor.as_str().map_or_else(|| divisor.to_string(), str::to_owned);
    let Some(amount) = (!divisor.is_null()).then(|| parse(&text)).flatten() else { return };
    if amount == 0 {
        return;
    }
    let what = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" => {
            if amount != UNIT && amount != UNIT / 1000 {
                let text = "only divisor's values 1m and 1 are supported with the cpu resource";
                errors.push(at.invalid(resource, text));
            }
            return;
        }
        "memory" => "memory",
        "ephemeral-storage" => "local ephemeral storage",
        name if name.starts_with("hugepages-") => "hugepages",
        _ => return,
    };
    let whole = amount / UNIT;
    let scale = |base: i128| (0..=6).any(|power| base.checked_pow(power) == Some(whole));
    if amount % UNIT != 0 || !(scale(1000) || scale(1024)) {
        errors.push(at.invalid(
            resource,
            format!(
                "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei \
                 are supported with the {what} resource"
            ),
        ));
    }
}

fn key_reference(at: &Path, reference: &Value, errors: &mut Vec<Error>) {
    let (name, key) = (reference.text("name"), reference.text("key"));
    faults(&at.child("name"), name, names::dns1123_subdomain(name), errors);
    if key.is_empty() {
        errors.push(at.child("key").required(""));
    } else {
        faults(&at.child("key"), key, names::config_map_key(key), errors);
    }
}

fn file_key(at: &Path, reference: &Value, errors: &mut Vec<Error>) {
    match reference.text("key") {
        "" => errors.push(at.child("key").required("")),
        key => faults(&at.child("key"), key, names::relaxed_env_var_name(key), errors),
    }
    match reference.text("volumeName") {
        "" => errors.push(at.child("volumeName").required("")),
        name => faults(&at.child("volumeName"), name, names::dns1123_label(name), errors),
    }
    match reference.text("path") {
        "" => errors.push(at.child("path").required("")),
        path => volume::no_backsteps(&at.child("path"), path, errors),
    }
}
