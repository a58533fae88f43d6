//! Pods and pod templates.

use serde_json::{Map, Value, json};

use super::{absent, amounts, each, empty, normalise, quantity, within, zero};
use crate::access::Access as _;

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// Permissions of files in volumes, 0644.
const FILE_MODE: i64 = 420;
const TOKEN_SECONDS: i64 = 3600;

/// A pod: what a template gets, and what only pods get.
pub(crate) fn pod(pod: &mut Value) {
    normalise(pod);
    empty(pod, "spec");
    empty(pod, "status");
    within(pod, "spec", |pod_spec| {
        spec(pod_spec);
        for list in ["containers", "initContainers"] {
            for container in each(pod_spec, list) {
                within(container, "resources", requests_from_limits);
            }
        }
        absent(pod_spec, "enableServiceLinks", true);
        if pod_spec.flag("hostNetwork") {
            for list in ["containers", "initContainers"] {
                each(pod_spec, list).for_each(host_ports);
            }
        }
    });
}

/// The spec of a pod or of a template.
pub fn spec(spec: &mut Value) {
    zero(spec, "dnsPolicy", "ClusterFirst");
    zero(spec, "restartPolicy", "Always");
    empty(spec, "securityContext");
    absent(spec, "terminationGracePeriodSeconds", 30);
    zero(spec, "schedulerName", "default-scheduler");
    for list in CONTAINER_LISTS {
        each(spec, list).for_each(container);
    }
    each(spec, "volumes").for_each(volume);
    within(spec, "resources", requirements);
    amounts(spec, "overhead");
    sync_service_account(spec);
}

/// The image's tag decides whether it is pulled anew.
#[must_use]
pub fn pull_policy(image: &str) -> &'static str {
    let reference = image.split('@').next().unwrap_or("");
    let last = reference.rsplit('/').next().unwrap_or("");
    let pinned = image.contains('@');
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        None if pinned => "IfNotPresent",
        _ => "Always",
    }
}

fn container(container: &mut Value) {
    let policy = pull_policy(container.text("image"));
    zero(container, "imagePullPolicy", policy);
    zero(container, "terminationMessagePath", "/dev/termination-log");
    zero(container, "terminationMessagePolicy", "File");
    empty(container, "resources");
    within(container, "resources", requirements);
    for port in each(container, "ports") {
        zero(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        within(variable, "valueFrom", |from| {
            field_reference(from);
            resource_reference(from);
            within(from, "fileKeyRef", |file| absent(file, "optional", false));
        });
    }
    for field in PROBES {
        within(container, field, probe);
    }
    within(container, "lifecycle", |lifecycle| {
        within(lifecycle, "postStart", http_get);
        within(lifecycle, "preStop", http_get);
    });
}

fn probe(probe: &mut Value) {
    zero(probe, "timeoutSeconds", 1);
    zero(probe, "periodSeconds", 10);
    zero(probe, "successThreshold", 1);
    zero(probe, "failureThreshold", 3);
    http_get(probe);
    within(probe, "grpc", |grpc| absent(grpc, "service", ""));
}

fn http_get(handler: &mut Value) {
    within(handler, "httpGet", |action| {
        zero(action, "path", "/");
        zero(action, "scheme", "HTTP");
    });
}

fn volume(volume: &mut Value) {
    let has_source = volume
        .as_object()
        .is_some_and(|fields| fields.iter().any(|(key, value)| key != "name" && !value.is_null()));
    if !has_source {
        empty(volume, "emptyDir");
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        within(volume, source, |source| absent(source, "defaultMode", FILE_MODE));
    }
    within(volume, "emptyDir", |source| quantity(source, "sizeLimit"));
    within(volume, "downwardAPI", |source| each(source, "items").for_each(downward_file));
    within(volume, "projected", |source| each(source, "sources").for_each(projection));
    within(volume, "hostPath", |source| absent(source, "type", ""));
    within(volume, "iscsi", |source| zero(source, "iscsiInterface", "default"));
    within(volume, "image", |source| {
        let policy = pull_policy(source.text("reference"));
        zero(source, "pullPolicy", policy);
    });
    within(volume, "ephemeral", |source| {
        within(source, "volumeClaimTemplate", |template| {
            within(template, "spec", super::storage::claim_spec);
        });
    });
}

fn projection(source: &mut Value) {
    within(source, "serviceAccountToken", |token| {
        absent(token, "expirationSeconds", TOKEN_SECONDS);
    });
    within(source, "downwardAPI", |files| each(files, "items").for_each(downward_file));
}

fn downward_file(file: &mut Value) {
    field_reference(file);
    resource_reference(file);
}

/// Go always writes the divisor; zero means one.
fn resource_reference(holder: &mut Value) {
    within(holder, "resourceFieldRef", |reference| {
        absent(reference, "divisor", "0");
        quantity(reference, "divisor");
    });
}

fn requirements(resources: &mut Value) {
    amounts(resources, "limits");
    amounts(resources, "requests");
}

fn field_reference(holder: &mut Value) {
    within(holder, "fieldRef", |reference| zero(reference, "apiVersion", "v1"));
}

/// What is limited but not asked for is asked for up to its limit.
fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = resources.fields("limits").cloned() else { return };
    absent(resources, "requests", json!({}));
    let Some(Value::Object(requests)) = resources.get_mut("requests") else { return };
    for (resource, limit) in limits {
        requests.entry(resource).or_insert(limit);
    }
    if requests.is_empty()
        && let Value::Object(fields) = resources
    {
        fields.remove("requests");
    }
}

fn host_ports(container: &mut Value) {
    for port in each(container, "ports") {
        if port.has("containerPort") {
            let number = port["containerPort"].clone();
            zero(port, "hostPort", number);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are written.
pub(crate) fn sync_service_account(spec: &mut Value) {
    let name = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if let Value::Object(fields) = spec
        && !name.is_empty()
    {
        set_both(fields, &name);
    }
}

fn set_both(spec: &mut Map<String, Value>, name: &str) {
    for field in ["serviceAccountName", "serviceAccount"] {
        spec.insert(field.to_owned(), json!(name));
    }
}
