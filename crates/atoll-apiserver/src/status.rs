//! `metav1.Status`: the one place where errors take the form that clients know.
//!
//! Texts are upstream's; clients match them. Nothing else in the crate writes a Status.

use std::fmt;

use atoll_api::access::Access as _;
use atoll_api::field;
use atoll_api::kinds::ResourceInfo;
use http::StatusCode;
use serde_json::{Value, json};

/// The reasons that clients know.
const REASONS: [&str; 20] = [
    "AlreadyExists",
    "BadRequest",
    "Conflict",
    "Expired",
    "Forbidden",
    "Gone",
    "InternalError",
    "Invalid",
    "MethodNotAllowed",
    "NotAcceptable",
    "NotFound",
    "RequestEntityTooLarge",
    "ServerTimeout",
    "ServiceUnavailable",
    "StoreReadError",
    "Timeout",
    "TooManyRequests",
    "Unauthorized",
    "Unknown",
    "UnsupportedMediaType",
];

/// A request's failure as the client sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Default)]
struct Inner {
    code: u16,
    reason: &'static str,
    message: String,
    details: Option<Details>,
    continue_token: String,
}

#[derive(Debug, Clone, PartialEq, Default)]
struct Details {
    name: String,
    group: String,
    kind: String,
    uid: String,
    causes: Vec<Value>,
    retry_after_seconds: u32,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Status {}

// === impl Status: reading ===

impl Status {
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Seconds for the `Retry-After` header; 0 for none.
    pub fn retry_after_seconds(&self) -> u32 {
        self.0.details.as_ref().map_or(0, |details| details.retry_after_seconds)
    }

    pub fn is_not_found(&self) -> bool {
        self.0.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.0.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.0.reason == "AlreadyExists"
    }

    /// The object that goes over the wire.
    pub fn to_value(&self) -> Value {
        let inner = &self.0;
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": inner.message,
            "code": inner.code,
        });
        if !inner.reason.is_empty() {
            status["reason"] = json!(inner.reason);
        }
        if !inner.continue_token.is_empty() {
            status["metadata"]["continue"] = json!(inner.continue_token);
        }
        if let Some(details) = &inner.details {
            status["details"] = details.to_value();
        }
        status
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut value = json!({});
        for (field, text) in
            [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !text.is_empty() {
                value[field] = json!(text);
            }
        }
        if !self.causes.is_empty() {
            value["causes"] = json!(self.causes);
        }
        if self.retry_after_seconds > 0 {
            value["retryAfterSeconds"] = json!(self.retry_after_seconds);
        }
        value
    }
}

// === impl Status: making ===

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        let inner = Inner { code: code.as_u16(), reason, message, ..Inner::default() };
        Self(Box::new(inner))
    }

    fn details(&mut self) -> &mut Details {
        self.0.details.get_or_insert_default()
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details();
        details.group = group.to_owned();
        details.kind = kind.to_owned();
        details.name = name.to_owned();
        self
    }

    fn about_row(self, row: &ResourceInfo, name: &str) -> Self {
        self.about(&row.group, &row.resource, name)
    }

    pub(crate) fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let mut cause = json!({ "reason": reason });
        for (name, text) in [("message", message), ("field", field)] {
            if !text.is_empty() {
                cause[name] = json!(text);
            }
        }
        self.details().causes.push(cause);
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u32) -> Self {
        self.details().retry_after_seconds = seconds;
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// `what` is the whole message; see [`Status::forbidden_to`] for the usual one.
    pub fn forbidden(row: &ResourceInfo, name: &str, why: impl fmt::Display) -> Self {
        let what = if name.is_empty() {
            format!("{} is forbidden: {why}", row.qualified_resource())
        } else {
            format!("{} {name:?} is forbidden: {why}", row.qualified_resource())
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", what).about_row(row, name)
    }

    /// A refusal of the authorizer. For other paths `resource` is empty and `name` the path.
    pub fn forbidden_text(group: &str, resource: &str, name: &str, message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).about(group, resource, name)
    }

    pub fn namespace_terminating(row: &ResourceInfo, name: &str, namespace: &str) -> Self {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        let message = format!("namespace {namespace} is being terminated");
        Self::forbidden(row, name, why).cause(
            "NamespaceTerminating",
            &message,
            "metadata.namespace",
        )
    }

    pub fn not_found(row: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {name:?} not found", row.qualified_resource());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).about_row(row, name)
    }

    /// The URL names no resource that is served.
    pub fn no_resource() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
        )
        .with_empty_details()
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
        .with_empty_details()
    }

    /// Of a kind whose definition goes: nothing of it comes any more.
    pub fn definition_ends(row: &ResourceInfo) -> Self {
        let text = "create not allowed while custom resource definition is terminating";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", text).about_row(row, "")
    }

    /// Who states a version has an object that is there already, or was.
    pub fn version_on_create() -> Self {
        let text = "resourceVersion should not be set on objects to be created";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", text)
    }

    /// The object that a write means by its uid is gone.
    pub fn uid_on_create(row: &ResourceInfo, name: &str, uid: &str) -> Self {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
        Self::conflict(row, name, why)
    }

    fn with_empty_details(mut self) -> Self {
        self.details();
        self
    }

    pub fn already_exists(row: &ResourceInfo, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", row.qualified_resource());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about_row(row, name)
    }

    /// A generated name met an existing one every time it was tried.
    pub fn generated_name_taken(row: &ResourceInfo, name: &str) -> Self {
        let message = format!(
            "{} {name:?} already exists, the server was not able to generate a unique name for \
             the object",
            row.qualified_resource()
        );
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message)
            .about_row(row, name)
            .retry_after(1)
    }

    pub fn conflict(row: &ResourceInfo, name: &str, why: impl fmt::Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {why}",
            row.qualified_resource()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).about_row(row, name)
    }

    /// The same for a part of an object: `pods/binding`.
    pub fn conflict_of_part(
        row: &ResourceInfo,
        part: &str,
        name: &str,
        why: impl fmt::Display,
    ) -> Self {
        let resource = format!("{}/{part}", row.resource);
        let qualified = if row.group.is_empty() {
            resource.clone()
        } else {
            format!("{resource}.{}", row.group)
        };
        let message = format!("Operation cannot be fulfilled on {qualified} {name:?}: {why}");
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(&row.group, &resource, name)
    }

    /// The object changed since the client read it.
    pub fn modified(row: &ResourceInfo, name: &str) -> Self {
        Self::conflict(
            row,
            name,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    /// Server-side apply met fields of other managers: (manager's description, field path).
    pub fn apply_conflict(message: &str, conflicts: &[(String, String)]) -> Self {
        let mut status = Self::new(StatusCode::CONFLICT, "Conflict", message).with_empty_details();
        for (message, field) in conflicts {
            status = status.cause("FieldManagerConflict", message, field);
        }
        status
    }

    /// The object breaks rules of its kind.
    pub fn invalid(row: &ResourceInfo, name: &str, errors: &[field::Error]) -> Self {
        Self::invalid_kind(&row.group, &row.kind, name, errors)
    }

    /// As [`Status::invalid`], for what is not a resource (options of a request).
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[field::Error]) -> Self {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = field::invalid_message(&qualified, name, errors);
        let mut status = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
            .about(group, kind, name);
        for error in errors {
            status = status.cause(error.reason(), &error.body(), &error.path);
        }
        status
    }

    /// A policy in CEL refused the request. `reason` is that of the policy; without one the
    /// request is invalid.
    pub(crate) fn denied_by_policy(
        row: &ResourceInfo,
        name: &str,
        message: &str,
        reason: &str,
    ) -> Self {
        let mut status = Self::forbidden(row, name, message).cause("", message, "");
        (status.0.code, status.0.reason) = match reason {
            "Forbidden" => (403, "Forbidden"),
            "Unauthorized" => (401, "Unauthorized"),
            "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
            _ => (422, "Invalid"),
        };
        status
    }

    /// Policies that change objects could not do so: the first failure is the message.
    pub(crate) fn policy_failed(
        row: &ResourceInfo,
        name: &str,
        failures: &[&str],
        reason: &'static str,
    ) -> Self {
        let mut status = Self::forbidden(row, name, "");
        status.0.message = failures.first().copied().unwrap_or("").to_owned();
        if !reason.is_empty() {
            status.0.reason = reason;
        }
        failures.iter().fold(status, |status, failure| status.cause("", failure, ""))
    }

    /// A JSON patch whose test or path does not hold.
    pub fn unprocessable() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
        .with_empty_details()
    }

    pub fn unsupported_media_type() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )
    }

    /// A PATCH in a format that the resource does not know.
    pub fn unsupported_patch() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
        )
    }

    /// The same for a custom resource, which has no strategies to merge by.
    pub fn unsupported_custom_patch() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )
    }

    /// Of what has no protobuf.
    pub fn not_acceptable() -> Self {
        let text =
            "only the following media types are accepted: application/json, application/yaml";
        Self::unacceptable(text)
    }

    pub(crate) fn unacceptable(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", text)
    }

    pub fn body_too_large(limit_bytes: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit_bytes}"),
        )
    }

    pub fn internal(why: impl fmt::Display) -> Self {
        let why = why.to_string();
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
        .cause("", &why, "")
    }

    /// An internal error whose text stands by itself.
    pub fn server_error(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// The revision asked for is gone; the client lists again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The same for a list that was begun; with the token it goes on at the latest revision.
    pub fn inconsistent_continue(token: String) -> Self {
        let mut status = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You \
             can start a new list without the continue parameter, or use the continue token in \
             this response to retrieve the remainder of the results. Continuing with the provided \
             token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.0.continue_token = token;
        status
    }

    pub fn too_large_revision(asked: i64, current: i64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Timeout: Too large resource version: {asked}, current: {current}"),
        )
        .cause("ResourceVersionTooLarge", "Too large resource version", "")
        .retry_after(1)
    }

    pub fn timeout(why: impl fmt::Display) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {why}"))
            .with_empty_details()
    }

    pub fn too_many_requests(why: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", why)
            .retry_after(retry_after_seconds)
    }

    /// An eviction that a disruption budget forbids for now.
    pub fn disruption_budget(message: impl Into<String>, cause: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).cause(
            "DisruptionBudget",
            cause,
            "",
        )
    }

    /// A webhook's refusal, with what it said of it.
    pub fn denied_by_webhook(webhook: &str, said: &Value) -> Self {
        let code = said.int("code").and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
        let code = StatusCode::from_u16(code).ok().filter(|code| code.as_u16() >= 400);
        let (message, reason) = (said.text("message"), said.text("reason"));
        let denied = format!("admission webhook {} denied the request", field::quote(webhook));
        let text = match (message, reason) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        let known = REASONS.iter().find(|known| **known == reason).copied().unwrap_or("");
        let mut status = Self::new(code.unwrap_or(StatusCode::BAD_REQUEST), known, text);
        let details = &said["details"];
        if !details.is_object() {
            return status;
        }
        let own = status.details();
        details.text("name").clone_into(&mut own.name);
        details.text("group").clone_into(&mut own.group);
        details.text("kind").clone_into(&mut own.kind);
        details.text("uid").clone_into(&mut own.uid);
        own.causes = details.items("causes").to_vec();
        let seconds = details.int("retryAfterSeconds").and_then(|own| u32::try_from(own).ok());
        own.retry_after_seconds = seconds.unwrap_or(0);
        status
    }

    /// What a kubelet answered, passed on.
    pub fn from_kubelet(code: StatusCode, reason: &'static str, text: String) -> Self {
        Self::new(code, reason, text).with_empty_details()
    }

    /// This server has no way to do it, now or later: whoever asks is not told to ask again,
    /// as clients do after a 503.
    pub fn lacking(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message).retry_after(1)
    }

    /// A store that did not do what it was asked.
    pub fn store(error: &atoll_store::kv::Error) -> Self {
        use atoll_store::kv::Error;
        match error {
            Error::Compacted { .. } => Self::expired(
                "The provided continue parameter is too old to display a consistent list result. \
                 You can start a new list without the continue parameter.",
            ),
            Error::Future { requested, current } => Self::too_large_revision(*requested, *current),
            Error::Timeout { .. } => Self::timeout(error),
            Error::TooLarge { bytes, limit_bytes } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("the object has {bytes} bytes; the store takes at most {limit_bytes}"),
            ),
            Error::NoLeader | Error::Unavailable { .. } => Self::unavailable(error.to_string()),
            // No Retry-After: kubectl would ask ten times before it shows the sentence, and only
            // somebody who reads it can do what it says.
            Error::NoQuorum { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", error.to_string())
            }
            Error::NoSpace { detail } => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "InsufficientStorage",
                format!("the cluster's store takes nothing more: {detail}"),
            ),
            other => Self::internal(other),
        }
    }
}

/// A success that carries no object: what a DELETE answers.
pub(crate) fn success(row: &ResourceInfo, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": row.resource});
    if !row.group.is_empty() {
        details["group"] = json!(row.group);
    }
    if !uid.is_empty() {
        details["uid"] = json!(uid);
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

/// A success without any details: bindings, evictions.
pub(crate) fn plain_success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}
