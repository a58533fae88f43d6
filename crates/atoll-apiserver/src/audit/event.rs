//! One request's events, as audit.k8s.io/v1 has them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_api::access::Access as _;
use atoll_api::{proto, tree};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::Audit;
use super::policy::{Keep, Level, Stage};
use crate::admission::notes::Notes;
use crate::authz::Attributes;
use crate::config::Clock;
use crate::course::Course;
use crate::user::UserInfo;

/// Bytes of the User-Agent that are kept; upstream's number.
const AGENT_BYTES_MAX: usize = 1024;
/// Bytes of a body that are looked at; larger ones are refused before.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "<[String]>::is_empty")]
    source_ips: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    object_ref: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    response_status: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_object: Option<&'a Value>,
    #[serde(skip_serializing_if = "Value::is_null")]
    response_object: Value,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
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

impl<'a> From<&'a UserInfo> for User<'a> {
    fn from(user: &'a UserInfo) -> Self {
        let UserInfo { name: username, uid, groups, extra, .. } = user;
        Self { username, uid, groups, extra }
    }
}

/// What is kept of one request; shared by whoever adds to it.
pub(crate) struct Trail {
    audit: Arc<Audit>,
    clock: Arc<dyn Clock>,
    keep: Keep,
    audit_id: String,
    uri: String,
    verb: String,
    user: UserInfo,
    source_ips: Vec<String>,
    agent: String,
    received: Timestamp,
    resource_request: bool,
    notes: Arc<Notes>,
    object: Mutex<Object>,
}

#[derive(Default)]
struct Object {
    reference: Value,
    request: Option<Value>,
}

impl Trail {
    /// `None` where the policy keeps nothing of it.
    pub(crate) fn begin(
        audit: &Arc<Audit>,
        clock: &Arc<dyn Clock>,
        asked: &Attributes<'_>,
        head: &Parts,
        remote: Option<SocketAddr>,
        course: &Course,
    ) -> Option<Self> {
        let keep = audit.policy.keep(asked);
        if keep.level == Level::None {
            return None;
        }
        let object = Object { reference: reference(asked), request: None };
        Some(Self {
            audit: audit.clone(),
            clock: clock.clone(),
            keep,
            audit_id: course.audit_id().to_str().unwrap_or_default().to_owned(),
            uri: head.uri.path_and_query().map_or("/", |uri| uri.as_str()).to_owned(),
            verb: asked.verb.to_owned(),
            user: asked.user.clone(),
            source_ips: source_ips(&head.headers, remote),
            agent: agent(&head.headers),
            received: course.received(),
            resource_request: asked.resource_request,
            notes: course.notes().clone(),
            object: Mutex::new(object),
        })
    }

    /// The request has come.
    pub(crate) async fn received(&self) {
        self.write(Stage::RequestReceived, Value::Null, Value::Null).await;
    }

    /// The body of a request for a resource.
    pub(crate) fn body(&self, bytes: &Bytes, headers: &HeaderMap) {
        let Some(value) = decode(bytes, headers) else { return };
        let mut object = self.object();
        let metadata = &value["metadata"];
        for (field, own) in [
            ("name", "name"),
            ("namespace", "namespace"),
            ("uid", "uid"),
            ("resourceVersion", "resourceVersion"),
        ] {
            let text = metadata.text(field);
            if object.reference.text(own).is_empty() && !text.is_empty() {
                object.reference[own] = json!(text);
            }
        }
        if self.keep.level >= Level::Request {
            object.request = Some(self.shown(value));
        }
    }

    /// Says how a request was answered. A stream is only begun now: what is given then says,
    /// once it is dropped, that it has ended.
    pub(crate) async fn answered(
        self: Arc<Self>,
        code: StatusCode,
        headers: &HeaderMap,
        whole: Option<Bytes>,
    ) -> Option<Watching> {
        let whole = whole.filter(|_| code != StatusCode::SWITCHING_PROTOCOLS);
        let Some(bytes) = whole else {
            self.write(Stage::ResponseStarted, status(code, None), Value::Null).await;
            return Some(Watching { trail: self, code });
        };
        let full = self.keep.level >= Level::RequestResponse && self.resource_request;
        let said = if full || code.as_u16() >= 400 || self.verb == "delete" {
            decode(&bytes, headers)
        } else {
            None
        };
        let status = status(code, said.as_ref());
        let shown = match said.filter(|_| full) {
            Some(value) => self.shown(value),
            None => Value::Null,
        };
        self.write(Stage::ResponseComplete, status, shown).await;
        None
    }

    fn shown(&self, mut value: Value) -> Value {
        if self.keep.omit_managed_fields {
            strip(&mut value);
            if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
                items.iter_mut().for_each(strip);
            }
        }
        value
    }

    async fn write(&self, stage: Stage, status: Value, response: Value) {
        if let Some(line) = self.line(stage, status, response) {
            self.audit.log.write(line).await;
        }
    }

    fn line(&self, stage: Stage, response_status: Value, response: Value) -> Option<Vec<u8>> {
        if self.keep.omit_stages.contains(&stage) {
            return None;
        }
        let object = self.object();
        let (user, impersonated) = match &self.user.sender {
            Some(sender) => (sender.as_ref().into(), Some((&self.user).into())),
            None => ((&self.user).into(), None),
        };
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: self.keep.level.as_str(),
            audit_id: &self.audit_id,
            stage: stage.as_str(),
            request_uri: &self.uri,
            verb: &self.verb,
            user,
            impersonated_user: impersonated,
            source_ips: &self.source_ips,
            user_agent: &self.agent,
            object_ref: &object.reference,
            response_status,
            request_object: object.request.as_ref(),
            response_object: response,
            request_received_timestamp: micro(self.received),
            stage_timestamp: micro(self.clock.now()),
            annotations: self.annotations(),
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some(line)
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let contents = self.keep.level >= Level::Request;
        let all = self.notes.annotations().into_iter();
        all.filter(|one| contents || !one.contents).map(|one| (one.key, one.value)).collect()
    }

    fn object(&self) -> MutexGuard<'_, Object> {
        self.object.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that has begun; dropped when it has ended.
pub(crate) struct Watching {
    trail: Arc<Trail>,
    code: StatusCode,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let status = status(self.code, None);
        if let Some(line) = self.trail.line(Stage::ResponseComplete, status, Value::Null) {
            self.trail.audit.log.write_now(line);
        }
    }
}

fn reference(asked: &Attributes<'_>) -> Value {
    if !asked.resource_request {
        return Value::Null;
    }
    let mut reference = json!({});
    for (field, text) in [
        ("resource", asked.resource),
        ("namespace", asked.namespace),
        ("name", asked.name),
        ("apiGroup", asked.group),
        ("apiVersion", asked.version),
        ("subresource", asked.subresource),
    ] {
        if !text.is_empty() {
            reference[field] = json!(text);
        }
    }
    reference
}

/// A Status that was answered is kept whole; of others only the code.
fn status(code: StatusCode, said: Option<&Value>) -> Value {
    let mut status = json!({"metadata": {}, "code": code.as_u16()});
    if let Some(said) = said.filter(|said| said.text("kind") == "Status") {
        for field in ["status", "message", "reason", "details"] {
            if said.has(field) {
                status[field] = said[field].clone();
            }
        }
    }
    status
}

fn decode(bytes: &Bytes, headers: &HeaderMap) -> Option<Value> {
    if bytes.is_empty() || bytes.len() > BODY_BYTES_MAX {
        return None;
    }
    if bytes.starts_with(b"k8s\0") {
        return proto::decode(bytes).ok().map(|(_, value)| value);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if kind.contains("yaml") {
        return tree::from_yaml(bytes).ok().map(|decoded| decoded.object);
    }
    serde_json::from_slice(bytes).ok()
}

fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Who is said to have asked first, and at last who did for sure.
fn source_ips(headers: &HeaderMap, remote: Option<SocketAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mut found: Vec<String> = Vec::new();
    let said = text("x-forwarded-for").split(',').chain([text("x-real-ip")]);
    let said = said.filter_map(|one| one.trim().parse::<std::net::IpAddr>().ok());
    for address in said.chain(remote.map(|remote| remote.ip())) {
        let address = address.to_canonical().to_string();
        if found.last() != Some(&address) {
            found.push(address);
        }
    }
    found
}

fn agent(headers: &HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    match agent.get(..AGENT_BYTES_MAX) {
        Some(start) => format!("{start}...TRUNCATED"),
        None => agent.to_owned(),
    }
}

fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}
