//! CertificateSigningRequests: form of the request, signer, usages, conditions.
//!
//! Whether the request's own signature holds is checked by whoever approves or signs it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{one_of, same};
use crate::access::Access as _;
use crate::field::{Error, Path, quote};
use crate::names;

/// Ten minutes: what is shorter expires before it can be renewed.
const EXPIRATION_SECONDS_MIN: i64 = 600;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(crate) fn create(request: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &request["spec"];
    let at = Path::new("spec");
    if !is_pem_request(spec.text("request")) {
        let text = "PEM block type must be CERTIFICATE REQUEST";
        errors.push(at.child("request").invalid(spec.text("request"), text));
    }
    usages(&at.child("usages"), spec.items("usages"), &mut errors);
    let signer = spec.text("signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        let text = "the legacy signerName is not allowed via this API version";
        errors.push(at.child("signerName").invalid(signer, text));
    } else {
        signer_name(&at.child("signerName"), signer, &mut errors);
    }
    if let Some(seconds) = spec.int("expirationSeconds")
        && seconds < EXPIRATION_SECONDS_MIN
    {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(at.child("expirationSeconds").invalid(seconds, text));
    }
    conditions(&request["status"], &mut errors);
    errors
}

pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = create(new);
    kept_conditions(new, old, &mut errors);
    errors
}

pub(crate) fn status_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = update(new, old);
    let (is, was) = (new["status"].text("certificate"), old["status"].text("certificate"));
    let at = Path::new("status").child("certificate");
    if !was.is_empty() && is != was {
        errors.push(at.forbidden("updates may not set certificate content if one already exists"));
    } else if !is.is_empty() && !has_pem_block(is, "CERTIFICATE") {
        errors.push(
            at.invalid("<certificate data>", "must contain at least one CERTIFICATE PEM block"),
        );
    }
    errors
}

pub(crate) fn approval(new: &Value, old: &Value) -> Vec<Error> {
    update(new, old)
}

fn usages(at: &Path, usages: &[Value], errors: &mut Vec<Error>) {
    if usages.is_empty() {
        errors.push(at.required("usages must be provided"));
    }
    for (index, usage) in usages.iter().enumerate() {
        let text = usage.as_str().unwrap_or("");
        if !USAGES.contains(&text) {
            errors.push(at.index(index).not_supported(text, &USAGES));
        }
        if usages[..index].contains(usage) {
            errors.push(at.index(index).duplicate(text));
        }
    }
}

/// Checks `domain/path`.
pub(crate) fn signer_name(at: &Path, name: &str, errors: &mut Vec<Error>) {
    if name.is_empty() {
        errors.push(at.required(""));
        return;
    }
    let segments: Vec<&str> = name.split('/').collect();
    let [domain, path] = segments.as_slice() else {
        let text =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errors.push(at.invalid(name, text));
        return;
    };
    if domain.len() > names::SUBDOMAIN_LENGTH_MAX {
        errors.push(at.too_long(names::SUBDOMAIN_LENGTH_MAX));
    }
    labels(at, domain, names::dns1123_label, errors);
    if !domain.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        errors.push(at.invalid(*domain, text));
    }
    labels(at, path, names::dns1123_subdomain, errors);
}

/// The faults of the first label that has any; those of others would only repeat them.
fn labels(at: &Path, segment: &str, rule: fn(&str) -> Vec<String>, errors: &mut Vec<Error>) {
    for label in segment.split('.') {
        let faults = rule(label);
        if !faults.is_empty() {
            let text = |fault| format!("validating label {}: {fault}", quote(label));
            errors.extend(faults.into_iter().map(|fault| at.invalid(segment, text(fault))));
            return;
        }
    }
}

fn conditions(status: &Value, errors: &mut Vec<Error>) {
    let at = Path::new("status").child("conditions");
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in status.items("conditions").iter().enumerate() {
        let at = at.index(index);
        let kind = condition.text("type");
        if kind.is_empty() {
            errors.push(at.child("type").required(""));
        }
        let decided = matches!(kind, "Approved" | "Denied" | "Failed");
        let allowed: &[&str] = if decided { &["True"] } else { &["True", "False", "Unknown"] };
        one_of(&at.child("status"), condition.text("status"), allowed, "", errors);
        let opposite = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !opposite.is_empty() && seen.contains(&opposite) {
            let text = "Approved and Denied conditions are mutually exclusive";
            errors.push(at.child("type").invalid(kind, text));
        }
        if seen.contains(&kind) {
            errors.push(at.child("type").duplicate(kind));
        }
        seen.push(kind);
    }
}

/// What has been decided stays decided.
fn kept_conditions(new: &Value, old: &Value, errors: &mut Vec<Error>) {
    let at = Path::new("status").child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        let of = |request: &Value| {
            let all = request["status"].items("conditions");
            all.iter().find(|one| one.text("type") == kind).cloned().unwrap_or(Value::Null)
        };
        let (is, was) = (of(new), of(old));
        if !was.is_null() && is.is_null() {
            errors.push(
                at.forbidden(format!("updates may not remove a condition of type {}", quote(kind))),
            );
        } else if !was.is_null() && !same(&is["status"], &was["status"]) {
            errors.push(
                at.forbidden(format!("updates may not modify a condition of type {}", quote(kind))),
            );
        }
    }
}

fn is_pem_request(encoded: &str) -> bool {
    has_pem_block(encoded, "CERTIFICATE REQUEST")
}

/// Whether base64 text holds a PEM block of a type, itself valid base64.
fn has_pem_block(encoded: &str, kind: &str) -> bool {
    let Ok(bytes) = STANDARD.decode(encoded) else { return false };
    let Ok(text) = std::str::from_utf8(&bytes) else { return false };
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let Some((_, rest)) = text.split_once(&begin) else { return false };
    let Some((body, _)) = rest.split_once(&end) else { return false };
    let joined: String = body.split_whitespace().collect();
    !joined.is_empty() && STANDARD.decode(joined).is_ok()
}
