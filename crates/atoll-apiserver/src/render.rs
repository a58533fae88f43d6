//! From objects to answers: full, as Table, as metadata alone; JSON, indented, YAML, protobuf.

pub(crate) mod protobuf;

use std::sync::Arc;

use atoll_api::kinds::{ResourceInfo, scale};
use atoll_api::proto;
use atoll_store::kv::Revision;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::Body;
use crate::cache::Entry;
use crate::negotiate::{Accept, Format, MetaVersion, PROTOBUF, Shape};
use crate::status::Status;
use crate::table;

/// An answer before it takes the form that the client asked for.
#[derive(Debug)]
pub(crate) struct Answer {
    pub code: StatusCode,
    pub object: Value,
    /// Texts for `Warning:` headers.
    pub warnings: Vec<String>,
}

impl Answer {
    pub(crate) fn ok(object: Value) -> Self {
        Self { code: StatusCode::OK, object, warnings: Vec::new() }
    }

    pub(crate) fn created(object: Value) -> Self {
        Self { code: StatusCode::CREATED, object, warnings: Vec::new() }
    }

    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Self {
        self.warnings.extend(warnings);
        self
    }
}

/// How one list is presented.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'a> {
    pub row: &'a ResourceInfo,
    pub accept: Accept,
    /// The `includeObject` parameter of a Table.
    pub include_object: &'a str,
    pub now: Timestamp,
}

/// What a list says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListMeta {
    pub revision: Revision,
    pub continue_token: String,
    pub remaining: Option<u64>,
}

impl View<'_> {
    /// One object in the form asked for. What is not of the row's kind (a Status) stays whole.
    pub(crate) fn object(&self, object: Value) -> Value {
        let own = object["kind"] == *self.row.kind || scale::is(&object);
        match self.accept.shape {
            Shape::Table { version } if own => table::of_object(self, version, &object),
            Shape::PartialMetadata { version } if own => partial(version, &object),
            _ => object,
        }
    }

    /// The bytes of a cached object.
    pub(crate) fn entry(&self, entry: &Entry) -> Result<Bytes, Status> {
        if self.plain() {
            return full_bytes(self.row, &entry.json_for(self.row)?);
        }
        if self.messages() {
            return protobuf::object(self.row, entry);
        }
        self.encode(&self.object(entry.object(self.row)?))
    }

    /// Whether cached bytes can go out as they are.
    pub(crate) fn plain(&self) -> bool {
        self.accept.shape == Shape::Full
            && self.accept.format == Format::Json
            && !self.accept.pretty
    }

    /// Whether cached messages of protobuf can.
    pub(crate) fn messages(&self) -> bool {
        self.accept.shape == Shape::Full && self.accept.format == Format::Protobuf
    }

    pub(crate) fn encode(&self, value: &Value) -> Result<Bytes, Status> {
        encode(self.accept, value)
    }

    pub(crate) fn list(&self, entries: &[Arc<Entry>], meta: &ListMeta) -> Result<Bytes, Status> {
        match self.accept.shape {
            Shape::Full if self.messages() => protobuf::list(self.row, entries, meta),
            Shape::Full => self.full_list(entries, meta),
            Shape::Table { version } => {
                let objects = self.trees(entries)?;
                self.encode(&table::of_list(self, version, &objects, meta))
            }
            Shape::PartialMetadata { version } => {
                let items: Vec<Value> =
                    self.trees(entries)?.iter().map(|object| partial(version, object)).collect();
                self.encode(&json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": version.api_version(),
                    "metadata": meta.to_value(),
                    "items": items,
                }))
            }
        }
    }

    fn trees(&self, entries: &[Arc<Entry>]) -> Result<Vec<Value>, Status> {
        entries.iter().map(|entry| entry.object(self.row)).collect()
    }

    fn full_list(&self, entries: &[Arc<Entry>], meta: &ListMeta) -> Result<Bytes, Status> {
        let head = format!(
            "{{\"kind\":{:?},\"apiVersion\":{:?},\"metadata\":{},\"items\":[",
            self.row.list_kind,
            self.row.api_version(),
            meta.to_value()
        );
        let size: usize = entries.iter().map(|entry| entry.json.len() + 1).sum();
        let typed = self.row.custom.is_some();
        let more = if typed { entries.len() * head.len() } else { 0 };
        let mut bytes = Vec::with_capacity(head.len() + size + more + 2);
        bytes.extend_from_slice(head.as_bytes());
        for (at, entry) in entries.iter().enumerate() {
            if at > 0 {
                bytes.push(b',');
            }
            let json = entry.json_for(self.row)?;
            // As upstream, for whom custom resources have no type that would say it.
            let json = if typed { full_bytes(self.row, &json)? } else { json };
            bytes.extend_from_slice(&json);
        }
        bytes.extend_from_slice(b"]}");
        if self.plain() {
            return Ok(bytes.into());
        }
        self.encode(&crate::storage::parse(&bytes)?)
    }
}

impl ListMeta {
    pub(crate) fn to_value(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if !self.continue_token.is_empty() {
            meta["continue"] = json!(self.continue_token);
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = json!(remaining);
        }
        meta
    }
}

/// Puts kind and apiVersion before the rest of an object.
pub(crate) fn full_bytes(row: &ResourceInfo, json: &[u8]) -> Result<Bytes, Status> {
    let rest = json.get(1..).unwrap_or_default();
    let head = format!("{{\"kind\":{:?},\"apiVersion\":{:?},", row.kind, row.api_version());
    let mut bytes = Vec::with_capacity(head.len() + rest.len());
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(rest);
    Ok(bytes.into())
}

/// The object's metadata as an object of its own.
pub(crate) fn partial(version: MetaVersion, object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.api_version(),
        "metadata": object["metadata"],
    })
}

pub(crate) fn encode(accept: Accept, value: &Value) -> Result<Bytes, Status> {
    let bytes = match accept.format {
        Format::Json if accept.pretty => {
            let mut bytes = serde_json::to_vec_pretty(value).map_err(Status::internal)?;
            bytes.push(b'\n');
            bytes
        }
        Format::Json => {
            let mut bytes = serde_json::to_vec(value).map_err(Status::internal)?;
            bytes.push(b'\n');
            bytes
        }
        Format::Yaml => atoll_api::tree::to_yaml(value).into_bytes(),
        Format::Protobuf => proto::encode(value).map_err(Status::internal)?,
    };
    Ok(bytes.into())
}

pub(crate) fn response(accept: Accept, code: StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    let content_type = match accept.format {
        Format::Json => HeaderValue::from_static("application/json"),
        Format::Yaml => HeaderValue::from_static("application/yaml"),
        Format::Protobuf => HeaderValue::from_static(PROTOBUF),
    };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The answer to a failed request.
pub(crate) fn failure(accept: Accept, status: &Status) -> Response<Body> {
    let bytes = encode(accept, &status.to_value()).unwrap_or_default();
    let mut response = response(accept, status.code(), bytes);
    if status.retry_after_seconds() > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(status.retry_after_seconds()));
    }
    response
}

/// Characters of all warnings of one answer, at most; upstream's number.
const WARNINGS_CHARS_MAX: usize = 4096;

/// `Warning: 299 - "text"`, each text once.
pub(crate) fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    let mut seen: Vec<&String> = Vec::new();
    let mut length = 0;
    for text in warnings {
        length += text.len();
        if seen.contains(&text) || length > WARNINGS_CHARS_MAX {
            continue;
        }
        seen.push(text);
        let escaped: String = text
            .chars()
            .filter(|letter| !letter.is_control())
            .flat_map(|letter| {
                let escape = matches!(letter, '"' | '\\').then_some('\\');
                escape.into_iter().chain([letter])
            })
            .collect();
        let Ok(value) = HeaderValue::from_str(&format!("299 - \"{escaped}\"")) else { continue };
        // The kind and its row may have said the same.
        if !response.headers().get_all(WARNING).iter().any(|known| known == value) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
