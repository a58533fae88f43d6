//! OpenAPI: what clients validate and explain objects with.
//!
//! A document for each group and version is made when first asked for, from the rows and the
//! schema table, with upstream's descriptions; its hash is known before it is made, because
//! its content is a function of this binary and of the schemas of custom resources.

mod describe;
mod gnostic;
mod paths;
mod schemas;
mod second;
mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use atoll_api::kinds::{ResourceInfo, Row};
use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, EXPIRES, HeaderValue};
use http::request::Parts;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::Body;
use crate::core::Core;
use crate::discovery::Document;
use crate::negotiate;
use crate::plain;
use crate::query::Query;
use crate::status::Status;

/// Raised when documents change their form without a new version of the crate.
const FORM: u32 = 3;
/// How long clients may keep a document whose hash is part of its URL: for good.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, immutable");

/// Documents, made when first asked for; there are as many as group versions.
#[derive(Debug, Default)]
pub struct OpenApi {
    documents: Mutex<HashMap<String, Document>>,
}

pub(crate) fn serve(core: &Core, head: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    let path = head.uri.path().trim_matches('/');
    match path {
        "openapi/v3" => plain::object(head, query, &index(core)),
        "openapi/v2" => second(core, head),
        _ => match path.strip_prefix("openapi/v3/") {
            Some(place) => third(core, head, query, place),
            None => Ok(plain::page_not_found()),
        },
    }
}

/// `api/v1`, `apis/apps/v1`: where a row's group version is.
fn place(row: &ResourceInfo) -> String {
    if row.group.is_empty() {
        format!("api/{}", row.version)
    } else {
        format!("apis/{}/{}", row.group, row.version)
    }
}

fn places(core: &Core) -> BTreeMap<String, Vec<Row>> {
    let mut places: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in core.registry.rows() {
        places.entry(place(&row)).or_default().push(row);
    }
    places
}

fn hash(rows: &[Row]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("{FORM} {}", env!("CARGO_PKG_VERSION")));
    for row in rows {
        hasher.update(format!("{} {:?} {:?}", row.definition, row.verbs, row.scope));
        for part in row.subresources.iter().filter(|part| part.served) {
            hasher.update(format!("{} {:?}", part.name, part.verbs));
        }
        if let Some(custom) = &row.custom {
            hasher.update(custom.schema.to_string());
        }
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

fn index(core: &Core) -> Value {
    let mut paths = serde_json::Map::new();
    for (place, rows) in places(core) {
        let url = format!("/openapi/v3/{place}?hash={}", hash(&rows));
        paths.insert(place, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn third(core: &Core, head: &Parts, query: &Query, place: &str) -> Result<Response<Body>, Status> {
    let Some(rows) = places(core).remove(place) else { return Ok(plain::page_not_found()) };
    if !json_accepted(head) {
        return Ok(plain::not_acceptable());
    }
    let document = core.openapi.document(place, || third_document(&rows), hash(&rows));
    let mut response = document.respond(head, "application/json");
    let asked = query.text("hash").trim_matches('"');
    let headers = response.headers_mut();
    if asked == document.hash {
        headers.insert(CACHE_CONTROL, IMMUTABLE);
        let year = core.now() + jiff::SignedDuration::from_hours(24 * 365);
        let expires = year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(expires) = HeaderValue::from_str(&expires) {
            headers.insert(EXPIRES, expires);
        }
    } else {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    }
    Ok(response)
}

fn json_accepted(head: &Parts) -> bool {
    negotiate::media_ranges(&head.headers)
        .iter()
        .any(|range| matches!(range.name, "application/json" | "*/*" | "application/*"))
}

/// The older form, as JSON or in gnostic's protobuf.
fn second(core: &Core, head: &Parts) -> Result<Response<Body>, Status> {
    let rows: Vec<Row> = core.registry.rows().collect();
    for range in negotiate::media_ranges(&head.headers) {
        match range.name {
            "application/json" | "application/*" | "*/*" => {
                let document = core.openapi.document("v2", || second_document(&rows), hash(&rows));
                return Ok(document.respond(head, "application/json"));
            }
            gnostic::MEDIA_TYPE | gnostic::MEDIA_TYPE_DOTTED => {
                let make = || gnostic::document(&second_document(&rows));
                let document = core.openapi.bytes("v2.pb", make, hash(&rows));
                return Ok(document.respond(head, "application/octet-stream"));
            }
            _ => {}
        }
    }
    Ok(plain::not_acceptable())
}

fn third_document(rows: &[Row]) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": crate::version::KUBERNETES},
        "paths": paths::of_rows(rows),
        "components": {"schemas": schemas::of_rows(rows, false)},
    })
}

fn second_document(rows: &[Row]) -> Value {
    let schemas = schemas::of_rows(rows, true);
    let mut definitions = Value::Object(schemas);
    schemas::refer_to_definitions(&mut definitions);
    let mut paths = second::paths(&paths::of_rows(rows));
    schemas::refer_to_definitions(&mut paths);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": crate::version::KUBERNETES},
        "paths": paths,
        "definitions": definitions,
    })
}

impl OpenApi {
    fn document(&self, place: &str, make: impl FnOnce() -> Value, hash: String) -> Document {
        self.bytes(place, || make().to_string().into_bytes(), hash)
    }

    fn bytes(&self, place: &str, make: impl FnOnce() -> Vec<u8>, hash: String) -> Document {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = documents.get(place).filter(|document| document.hash == hash) {
            return document.clone();
        }
        let document = Document { bytes: Bytes::from(make()), hash };
        documents.insert(place.to_owned(), document.clone());
        document
    }
}
