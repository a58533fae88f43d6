//! `AdmissionReview`: the question to a webhook and what its answer says, in both versions.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::AdmissionRequest;
use super::super::matching::Matched;
use super::configured::Version;
use crate::status::Status;

/// Warnings of one answer; more are dropped.
const WARNINGS_MAX: usize = 64;
/// Audit annotations of one answer; more are dropped.
const ANNOTATIONS_MAX: usize = 64;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    kind: Kind<'a>,
    resource: Resource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: Kind<'a>,
    request_resource: Resource<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'a str,
    user_info: User<'a>,
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
    dry_run: bool,
    options: &'a Value,
}

#[derive(Serialize)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

#[derive(Serialize)]
struct Resource<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

/// What is shown to a webhook.
pub(super) struct Shown<'a> {
    pub(super) object: Option<&'a Value>,
    pub(super) old: Option<&'a Value>,
}

/// The question as it goes over the wire.
pub(super) fn write(
    version: Version,
    uid: &str,
    request: &AdmissionRequest<'_>,
    matched: &Matched,
    shown: &Shown<'_>,
) -> Result<Vec<u8>, Status> {
    let asked = Matched::as_asked(request);
    let review = Review {
        kind: "AdmissionReview",
        api_version: version.api_version(),
        request: Request {
            uid,
            object: shown.object,
            old_object: shown.old,
            ..question(request, matched, &asked)
        },
    };
    serde_json::to_vec(&review).map_err(Status::internal)
}

/// The question as expressions see it: without the objects and the uid.
pub(super) fn describe(request: &AdmissionRequest<'_>, matched: &Matched) -> Result<Value, Status> {
    let asked = Matched::as_asked(request);
    let mut value =
        serde_json::to_value(question(request, matched, &asked)).map_err(Status::internal)?;
    if let Value::Object(fields) = &mut value {
        for field in ["uid", "object", "oldObject"] {
            fields.remove(field);
        }
    }
    Ok(value)
}

fn question<'a>(
    request: &'a AdmissionRequest<'a>,
    matched: &'a Matched,
    asked: &'a Matched,
) -> Request<'a> {
    Request {
        uid: "",
        kind: kind(matched),
        resource: resource(matched),
        sub_resource: request.subresource,
        request_kind: kind(asked),
        request_resource: resource(asked),
        request_sub_resource: request.subresource,
        name: request.name,
        namespace: request.namespace,
        operation: request.operation.as_str(),
        user_info: User {
            username: &request.user.name,
            uid: &request.user.uid,
            groups: &request.user.groups,
            extra: &request.user.extra,
        },
        object: None,
        old_object: None,
        dry_run: request.dry_run,
        options: request.options,
    }
}

fn kind(matched: &Matched) -> Kind<'_> {
    let kind = &matched.kind;
    Kind { group: &kind.group, version: &kind.version, kind: &kind.kind }
}

fn resource(matched: &Matched) -> Resource<'_> {
    let resource = &matched.resource;
    Resource { group: &resource.group, version: &resource.version, resource: &resource.resource }
}

/// What a webhook decided.
#[derive(Debug, Default, PartialEq)]
pub struct Verdict {
    pub allowed: bool,
    /// A `metav1.Status` or null.
    pub status: Value,
    /// A JSON patch that is not empty.
    pub patch: Option<Value>,
    pub warnings: Vec<String>,
    pub annotations: Vec<(String, String)>,
}

/// An answer that cannot be used, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    #[error("failed to call webhook: {0}")]
    Undecodable(String),
    #[error("received invalid webhook response: {0}")]
    Invalid(String),
    #[error("received undecodable patch in webhook response: {0}")]
    Patch(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnswerReview {
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    response: Option<Answer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    allowed: Option<bool>,
    #[serde(default)]
    status: Value,
    #[serde(default)]
    patch: Option<String>,
    #[serde(default)]
    patch_type: Option<String>,
    #[serde(default)]
    audit_annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Reads the answer of a webhook to the question `uid` that was put in `version`.
///
/// # Errors
///
/// When it is no review of that version, not the answer to this question, or its patch is none.
pub fn read(
    bytes: &[u8],
    version: Version,
    uid: &str,
    mutating: bool,
) -> Result<Verdict, BadAnswer> {
    let review: AnswerReview = serde_json::from_slice(bytes).map_err(|error| {
        BadAnswer::Undecodable(format!("couldn't get version/kind; json parse error: {error}"))
    })?;
    let (kind, api_version) =
        (review.kind.unwrap_or_default(), review.api_version.unwrap_or_default());
    let Some(answer) = review.response else {
        return Err(BadAnswer::Invalid("webhook response was absent".to_owned()));
    };
    if version == Version::V1 {
        identify(&answer, uid, &kind, &api_version)?;
        check_patch(&answer, mutating)?;
    }
    let patch = match answer.patch.as_deref().filter(|patch| mutating && !patch.is_empty()) {
        Some(encoded) => decode_patch(encoded)?,
        None => None,
    };
    Ok(Verdict {
        allowed: answer.allowed.unwrap_or(false),
        status: answer.status,
        patch,
        warnings: answer.warnings.unwrap_or_default().into_iter().take(WARNINGS_MAX).collect(),
        annotations: answer
            .audit_annotations
            .unwrap_or_default()
            .into_iter()
            .take(ANNOTATIONS_MAX)
            .collect(),
    })
}

fn identify(answer: &Answer, uid: &str, kind: &str, api_version: &str) -> Result<(), BadAnswer> {
    let stated = answer.uid.as_deref().unwrap_or("");
    if stated != uid {
        let stated = atoll_api::field::quote(stated);
        return Err(BadAnswer::Invalid(format!("expected response.uid={uid:?}, got {stated}")));
    }
    let wanted = Version::V1.api_version();
    if api_version != wanted || kind != "AdmissionReview" {
        let stated = if api_version.contains('/') || api_version.is_empty() {
            format!("{api_version}, Kind={kind}")
        } else {
            format!("/{api_version}, Kind={kind}")
        };
        let stated = if api_version.is_empty() { format!("/{stated}") } else { stated };
        return Err(BadAnswer::Invalid(format!(
            "expected webhook response of {wanted}, Kind=AdmissionReview, got {stated}"
        )));
    }
    Ok(())
}

/// A patch says of which type it is; only mutating webhooks have one.
fn check_patch(answer: &Answer, mutating: bool) -> Result<(), BadAnswer> {
    let patch = answer.patch.as_deref().is_some_and(|patch| !patch.is_empty());
    let invalid = |text: &str| Err(BadAnswer::Invalid(text.to_owned()));
    match (mutating, patch, answer.patch_type.as_deref()) {
        (false, true, _) => invalid("validating webhook may not return response.patch"),
        (false, false, Some(_)) => invalid("validating webhook may not return response.patchType"),
        (true, true, None) => invalid("webhook returned response.patch but not response.patchType"),
        (true, false, Some(_)) => {
            invalid("webhook returned response.patchType but not response.patch")
        }
        (true, true, Some("")) => invalid("webhook returned invalid response.patchType of \"\""),
        (true, true, Some(kind)) if kind != "JSONPatch" => Err(BadAnswer::Invalid(format!(
            "unsupported patch type {}",
            atoll_api::field::quote(kind)
        ))),
        _ => Ok(()),
    }
}

fn decode_patch(encoded: &str) -> Result<Option<Value>, BadAnswer> {
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|error| BadAnswer::Undecodable(format!("illegal base64 data: {error}")))?;
    let patch: Value =
        serde_json::from_slice(&bytes).map_err(|error| BadAnswer::Patch(error.to_string()))?;
    match patch.as_array() {
        Some(operations) if operations.is_empty() => Ok(None),
        Some(_) => Ok(Some(patch)),
        None if patch.is_null() => Ok(None),
        None => Err(BadAnswer::Patch("the patch is no list of operations".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(response: Value) -> Vec<u8> {
        let api_version = Version::V1.api_version();
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": api_version, "response": response});
        review.to_string().into_bytes()
    }

    fn reads(response: Value, mutating: bool) -> Result<Verdict, String> {
        read(&answer(response), Version::V1, "u", mutating).map_err(|error| error.to_string())
    }

    #[test]
    fn a_patch_comes_out() {
        let patch = json!([{"op": "add", "path": "/a", "value": 1}]);
        let encoded = STANDARD.encode(patch.to_string());
        let response =
            json!({"uid": "u", "allowed": true, "patchType": "JSONPatch", "patch": encoded});
        let verdict = reads(response, true).unwrap();
        assert_eq!((verdict.allowed, verdict.patch), (true, Some(patch)));
    }

    #[test]
    fn answers_that_cannot_be_used() {
        let invalid = "received invalid webhook response:";
        for (response, mutating, text) in [
            (json!(null), true, "webhook response was absent"),
            (json!({"uid": "x"}), true, "expected response.uid=\"u\", got \"x\""),
            (
                json!({"uid": "u", "patch": "W10="}),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (
                json!({"uid": "u", "patch": "W10="}),
                false,
                "validating webhook may not return response.patch",
            ),
        ] {
            assert_eq!(reads(response, mutating).unwrap_err(), format!("{invalid} {text}"));
        }
        let other = json!({"kind": "X", "response": {"uid": "u"}}).to_string();
        assert_eq!(
            read(other.as_bytes(), Version::V1, "u", true).unwrap_err().to_string(),
            format!(
                "{invalid} expected webhook response of admission.k8s.io/v1, \
                 Kind=AdmissionReview, got /, Kind=X"
            )
        );
    }

    #[test]
    fn the_older_version_is_not_as_strict() {
        let bytes = json!({"response": {"allowed": true, "patch": "W10="}}).to_string();
        let verdict = read(bytes.as_bytes(), Version::V1Beta1, "u", true).unwrap();
        assert_eq!((verdict.allowed, verdict.patch), (true, None));
    }
}
