//! Signing requests: who asked is written down, and only those who may approve or sign.

use atoll_api::access::Access as _;
use atoll_identity::{KUBE_APISERVER_CLIENT_SIGNER, SigningRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation};
use crate::authz::{Attributes, Decision};
use crate::core::Core;
use crate::status::Status;
use crate::user::MASTERS;

fn is_request(request: &AdmissionRequest<'_>) -> bool {
    request.row.group == "certificates.k8s.io"
        && request.row.resource == "certificatesigningrequests"
}

/// Who asks is what authentication found.
pub(super) fn requester<'a>(
    _: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    if is_request(request) && request.operation == Operation::Create {
        let user = request.user;
        let extra = json!(user.extra);
        atoll_api::kinds::csr::set_requester(object, &user.name, &user.uid, &user.groups, &extra);
    }
    async { Ok(()) }.boxed()
}

/// Whoever decides or signs need not say when.
pub(super) fn times<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let decides = matches!(request.subresource, "approval" | "status");
    if is_request(request) && request.operation == Operation::Update && decides {
        let old = request.old.unwrap_or(&Value::Null);
        atoll_api::kinds::csr::stamp_conditions(object, old, &core.now_text());
    }
    async { Ok(()) }.boxed()
}

/// The plugin `CertificateSubjectRestriction`.
pub(super) fn subject<'a>(
    _: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let checked = check_subject(request, object);
    async move { checked }.boxed()
}

fn check_subject(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let spec = &object["spec"];
    if !is_request(request)
        || request.operation != Operation::Create
        || spec.text("signerName") != KUBE_APISERVER_CLIENT_SIGNER
    {
        return Ok(());
    }
    let refuse = |why: String| Err(Status::forbidden(request.row, request.name, why));
    let pem = STANDARD.decode(spec.text("request")).ok();
    let text = pem.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    match SigningRequest::from_pem(&text) {
        Err(error) => refuse(format!("failed to parse CSR: {error}")),
        Ok(parsed) if parsed.organizations.iter().any(|group| group == MASTERS) => refuse(format!(
            "use of {KUBE_APISERVER_CLIENT_SIGNER} signer with {MASTERS} group is not allowed"
        )),
        Ok(_) => Ok(()),
    }
}

/// The plugins `CertificateApproval` and `CertificateSigning`.
pub(super) fn signers<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let checked = check_signers(core, request, object);
    async move { checked }.boxed()
}

fn check_signers(
    core: &Core,
    request: &AdmissionRequest<'_>,
    object: &Value,
) -> Result<(), Status> {
    if !is_request(request) || request.operation != Operation::Update {
        return Ok(());
    }
    let old = request.old.unwrap_or(&Value::Null);
    let verb = match request.subresource {
        "approval" => "approve",
        "status" if changes_certificate(old, object) => "sign",
        _ => return Ok(()),
    };
    let signer = old["spec"].text("signerName");
    if may(core, request, verb, signer) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
    Err(Status::forbidden(request.row, request.name, why))
}

/// A failure that is recorded is the signer's word, too.
fn changes_certificate(old: &Value, new: &Value) -> bool {
    let failed = |object: &Value| {
        object["status"]
            .items("conditions")
            .iter()
            .filter(|condition| condition.text("type") == "Failed")
            .count()
    };
    old["status"].text("certificate") != new["status"].text("certificate")
        || failed(old) != failed(new)
}

/// The right is to one signer, or to all of a domain.
fn may(core: &Core, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let wildcard =
        signer.split_once('/').map_or_else(String::new, |(domain, _)| format!("{domain}/*"));
    [signer, wildcard.as_str()].iter().any(|name| {
        let attributes = Attributes {
            version: "*",
            name,
            ..Attributes::resource(request.user, verb, "certificates.k8s.io", "signers")
        };
        matches!(core.authorizer.authorize(&attributes), Decision::Allow { .. })
    })
}
