//! The plugin `PodSecurity`: pods that their namespace's standard does not take are refused,
//! workloads that would make such pods are warned of.

use atoll_api::access::Access as _;
use atoll_policy::pod_security::{Policy, Standard};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::matching;
use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;

/// Before the keys of what an audit gets.
const ANNOTATION: &str = "pod-security.kubernetes.io";

/// Workloads by group and resource, and where their template stands.
const WORKLOADS: [(&str, &str, &str); 8] = [
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];

/// Pods are judged and workloads warned of by the labels of their namespace.
pub(super) fn check<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes {
            return Ok(());
        }
        if request.row.group.is_empty() && request.row.resource == "namespaces" {
            return namespace(request, object);
        }
        if request.row.group.is_empty() && request.row.resource == "pods" {
            return pod(core, request, object).await;
        }
        workload(core, request, object).await
    }
    .boxed()
}

/// The labels of a namespace must mean something, when they are new.
fn namespace(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    if !request.subresource.is_empty() {
        return Ok(());
    }
    let (_, bad) = Policy::of_labels(&object["metadata"]["labels"]);
    let before = request.old.map(|old| Policy::of_labels(&old["metadata"]["labels"]).1);
    if bad.is_empty() || before.as_ref() == Some(&bad) {
        return Ok(());
    }
    let at = atoll_api::field::Path::new("metadata").child("labels");
    let errors: Vec<_> =
        bad.iter().map(|one| at.key(&one.label).invalid(one.value.as_str(), one.why)).collect();
    Err(Status::invalid(request.row, request.name, &errors))
}

async fn policy(core: &Core, request: &AdmissionRequest<'_>) -> Result<Option<Policy>, Status> {
    let Some(namespace) = matching::namespace(core, request.namespace).await? else {
        return Ok(None);
    };
    let (policy, _) = Policy::of_labels(&namespace["metadata"]["labels"]);
    Ok(Some(policy).filter(|policy| !policy.is_open()))
}

async fn pod(core: &Core, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Status> {
    // Nothing else of a pod changes what it may do.
    if !matches!(request.subresource, "" | "ephemeralcontainers") {
        return Ok(());
    }
    let Some(policy) = policy(core, request).await? else { return Ok(()) };
    if request.old.is_some_and(|old| !is_significant(pod, old)) {
        return Ok(());
    }
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    request.notes.annotate(&format!("{ANNOTATION}/enforce-policy"), &policy.enforce.to_string());
    let verdict = policy.enforce.verdict(metadata, spec);
    audit(request, &policy.audit, metadata, spec);
    if let Some(verdict) = verdict {
        return Err(Status::forbidden(request.row, request.name, format!("violates {verdict}")));
    }
    warn(request, &policy.warn, metadata, spec);
    Ok(())
}

async fn workload(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), Status> {
    let known = WORKLOADS.iter().find(|(group, resource, _)| {
        request.row.group == *group && request.row.resource == *resource
    });
    let Some((_, _, place)) = known.filter(|_| request.subresource.is_empty()) else {
        return Ok(());
    };
    let Some(template) = object.pointer(place).filter(|template| template.is_object()) else {
        return Ok(());
    };
    let Some(policy) = policy(core, request).await? else { return Ok(()) };
    let none = json!(Map::new());
    let metadata = template.get("metadata").unwrap_or(&none);
    audit(request, &policy.audit, metadata, &template["spec"]);
    warn(request, &policy.warn, metadata, &template["spec"]);
    Ok(())
}

fn audit(request: &AdmissionRequest<'_>, standard: &Standard, metadata: &Value, spec: &Value) {
    if let Some(verdict) = standard.verdict(metadata, spec) {
        let text = format!("would violate {verdict}");
        request.notes.annotate(&format!("{ANNOTATION}/audit-violations"), &text);
    }
}

fn warn(request: &AdmissionRequest<'_>, standard: &Standard, metadata: &Value, spec: &Value) {
    if let Some(verdict) = standard.verdict(metadata, spec) {
        request.notes.warn(format!("would violate {verdict}"));
    }
}

/// A change of what runs: other images, other containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    let (new, old) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        let (new, old) = (new.items(list), old.items(list));
        let differs = |(new, old): (&Value, &Value)| new.text("image") != old.text("image");
        if new.len() != old.len() || new.iter().zip(old).any(differs) {
            return true;
        }
    }
    new.items("ephemeralContainers").iter().any(|container| {
        let same = |one: &&Value| one.text("name") == container.text("name");
        let before = old.items("ephemeralContainers").iter().find(same);
        before.is_none_or(|before| before.text("image") != container.text("image"))
    })
}
