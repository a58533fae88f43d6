//! Kinds whose rows say little: Namespace, ServiceAccount, Lease and their like.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, boolean, human_duration, integer, name, text};
use crate::access::Access as _;

pub(crate) const NAMESPACE: &[Column] = &[NAME, text("Status", "The status of the namespace"), AGE];

pub(crate) const SERVICE_ACCOUNT: &[Column] = &[NAME, AGE];

pub(crate) const LEASE: &[Column] =
    &[NAME, text("Holder", "holderIdentity contains the identity of the holder"), AGE];

pub(crate) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    integer("Value", "The actual priority that pods get with this class."),
    boolean("Global-Default", "Whether this class is the default for pods without any."),
    AGE,
    text("PreemptionPolicy", "The policy for preempting pods with lower priority."),
];

pub(crate) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    text("Controller", "Controller of the object"),
    text("Revision", "Revision indicates the revision of the state represented by Data."),
    AGE,
];

pub(crate) const COMPONENT_STATUS: &[Column] = &[
    NAME,
    text("Status", "Status of the component conditions"),
    text("Message", "Message of the component conditions"),
    text("Error", "Error of the component conditions"),
];

pub(crate) const CSR: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", "Indicates the requested signer."),
    text("Requestor", "Who asked for the certificate."),
    text("RequestedDuration", "The requested duration of validity of the certificate."),
    text("Condition", "What became of the request."),
];

pub(crate) fn component_status(component: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = component.items("conditions").iter().find(|one| one.text("type") == "Healthy");
    let field = |key: &str| healthy.map_or("", |condition| condition.text(key));
    let status = match field("status") {
        "True" => "Healthy",
        "False" => "Unhealthy",
        _ => "Unknown",
    };
    vec![name(component), json!(status), json!(field("message")), json!(field("error"))]
}

pub(crate) fn namespace(namespace: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(namespace), json!(namespace["status"].text("phase")), age(namespace, now)]
}

pub(crate) fn service_account(account: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(account), age(account, now)]
}

pub(crate) fn lease(lease: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(lease), json!(lease["spec"].text("holderIdentity")), age(lease, now)]
}

pub(crate) fn priority_class(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(class),
        json!(class.int("value").unwrap_or(0)),
        json!(class.flag("globalDefault")),
        age(class, now),
        json!(class.text("preemptionPolicy")),
    ]
}

pub(crate) fn controller_revision(revision: &Value, now: Timestamp) -> Vec<Value> {
    let owners = revision["metadata"].items("ownerReferences");
    let controller = owners.iter().find(|owner| owner.flag("controller")).map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let kind = owner.text("kind").to_lowercase();
            let group = owner.text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{kind}{dot}{group}/{}", owner.text("name"))
        },
    );
    vec![
        name(revision),
        json!(controller),
        json!(revision.int("revision").unwrap_or(0)),
        age(revision, now),
    ]
}

pub(crate) fn csr(request: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &request["spec"];
    let signer = spec.text("signerName");
    let duration = spec.int("expirationSeconds");
    vec![
        name(request),
        age(request, now),
        json!(if signer.is_empty() { "<none>" } else { signer }),
        json!(spec.text("username")),
        json!(duration.map_or_else(|| "<none>".to_owned(), human_duration)),
        json!(csr_state(&request["status"])),
    ]
}

fn csr_state(status: &Value) -> String {
    let holds = |kind: &str| status.items("conditions").iter().any(|one| one.text("type") == kind);
    let mut words = vec![if holds("Denied") {
        "Denied"
    } else if holds("Approved") {
        "Approved"
    } else {
        "Pending"
    }];
    if holds("Failed") {
        words.push("Failed");
    }
    if !status.text("certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",")
}
