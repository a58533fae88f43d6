//! Discovery: which groups, versions, resources and verbs there are, from the table of rows.

use std::sync::Arc;

use arc_swap::ArcSwap;
use atoll_api::kinds::{ResourceInfo, Row, Subresource};
use atoll_api::schema::Name;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::Body;
use crate::core::Core;
use crate::negotiate;
use crate::plain;
use crate::query::Query;
use crate::registry::Registry;
use crate::status::Status;

/// The aggregated documents, made again when rows came or went.
#[derive(Debug)]
pub struct Discovery {
    documents: ArcSwap<Documents>,
}

#[derive(Debug)]
struct Documents {
    /// The registry's number when these were made.
    generation: u64,
    core_v2: Document,
    core_v2beta1: Document,
    groups_v2: Document,
    groups_v2beta1: Document,
}

/// Bytes with the hash by which clients know them again.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    pub bytes: Bytes,
    pub hash: String,
}

impl Document {
    pub(crate) fn new(value: &Value) -> Self {
        let bytes = Bytes::from(value.to_string());
        let hash = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { bytes, hash }
    }

    /// The document, or 304 to a client that has it already.
    pub(crate) fn respond(&self, head: &Parts, content_type: &'static str) -> Response<Body> {
        let tag = format!("\"{}\"", self.hash);
        let known =
            head.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(
                |tags| tags.split(',').any(|own| own.trim() == tag || own.trim() == "*"),
            );
        let mut response = Response::new(Body::empty());
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Body::from(self.bytes.clone());
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        response
    }
}

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2_BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

impl Discovery {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { documents: ArcSwap::from_pointee(Documents::new(registry)) }
    }

    fn current(&self, registry: &Registry) -> Arc<Documents> {
        let documents = self.documents.load_full();
        if documents.generation == registry.generation() {
            return documents;
        }
        let documents = Arc::new(Documents::new(registry));
        self.documents.store(documents.clone());
        documents
    }
}

impl Documents {
    fn new(registry: &Registry) -> Self {
        let generation = registry.generation();
        let rows: Vec<Row> = registry.rows().collect();
        let document = |version, core| Document::new(&aggregated(version, &rows, core));
        Self {
            generation,
            core_v2: document("v2", true),
            core_v2beta1: document("v2beta1", true),
            groups_v2: document("v2", false),
            groups_v2beta1: document("v2beta1", false),
        }
    }
}

pub(crate) fn serve(core: &Core, head: &Parts, query: &Query) -> Result<Response<Body>, Status> {
    let path = head.uri.path().trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        [root @ ("api" | "apis")] => {
            if let Some(response) = negotiated(core, head, *root == "api") {
                return Ok(response);
            }
            let document = if *root == "api" { versions(core) } else { group_list(core) };
            plain::object(head, query, &document)
        }
        ["api", version] => resource_list(core, head, query, "", version),
        ["apis", group] => match group_value(core, group) {
            Some(mut value) => {
                value["kind"] = json!("APIGroup");
                value["apiVersion"] = json!("v1");
                plain::object(head, query, &value)
            }
            None => Ok(plain::page_not_found()),
        },
        ["apis", group, version] => resource_list(core, head, query, group, version),
        _ => Ok(plain::page_not_found()),
    }
}

/// The aggregated document, if it is the first form that the client takes.
fn negotiated(core: &Core, head: &Parts, of_core: bool) -> Option<Response<Body>> {
    let discovery = core.discovery.current(&core.registry);
    for range in negotiate::media_ranges(&head.headers) {
        if range.param("as") == "APIGroupDiscoveryList" && range.name == "application/json" {
            let (document, content_type) = match (range.param("v"), of_core) {
                ("v2", true) => (&discovery.core_v2, V2),
                ("v2", false) => (&discovery.groups_v2, V2),
                ("v2beta1", true) => (&discovery.core_v2beta1, V2_BETA1),
                ("v2beta1", false) => (&discovery.groups_v2beta1, V2_BETA1),
                _ => continue,
            };
            return Some(document.respond(head, content_type));
        }
        if range.param("as").is_empty() && matches!(range.name, "application/json" | "*/*") {
            return None;
        }
    }
    None
}

fn versions(core: &Core) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": core.config.advertise.to_string()},
        ],
    })
}

/// Groups with a name, in the order of the table.
fn groups(core: &Core) -> Vec<Name> {
    let mut groups = Vec::new();
    for row in core.registry.rows() {
        if !row.group.is_empty() && !groups.contains(&row.group) {
            groups.push(row.group.clone());
        }
    }
    groups
}

fn group_list(core: &Core) -> Value {
    let groups: Vec<Value> =
        groups(core).into_iter().filter_map(|group| group_value(core, &group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_value(core: &Core, group: &str) -> Option<Value> {
    let mut versions = Vec::new();
    for row in core.registry.rows().filter(|row| row.group == group && !group.is_empty()) {
        let version = json!({"groupVersion": row.api_version(), "version": row.version});
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

fn resource_list(
    core: &Core,
    head: &Parts,
    query: &Query,
    group: &str,
    version: &str,
) -> Result<Response<Body>, Status> {
    let mut resources = Vec::new();
    let mut api_version = String::new();
    for row in core.registry.rows().filter(|row| row.group == group && row.version == version) {
        api_version = row.api_version();
        resources.push(resource(&row));
        resources.extend(row.subresources.iter().filter(|part| part.served).map(|part| {
            let mut value = json!({
                "name": format!("{}/{}", row.resource, part.name),
                "singularName": "",
                "namespaced": row.namespaced(),
                "kind": part.kind,
                "verbs": part.verbs,
            });
            if !part.version.is_empty() {
                value["group"] = json!(part.group);
                value["version"] = json!(part.version);
            }
            value
        }));
    }
    if resources.is_empty() {
        return Ok(plain::page_not_found());
    }
    let list = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version,
        "resources": resources,
    });
    plain::object(head, query, &list)
}

fn resource(row: &ResourceInfo) -> Value {
    let mut value = json!({
        "name": row.resource,
        "singularName": row.singular,
        "namespaced": row.namespaced(),
        "kind": row.kind,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    if !row.virtual_only {
        value["storageVersionHash"] = json!(storage_hash(row));
    }
    value
}

/// The hash by which clients see that a resource's stored version changed.
fn storage_hash(row: &ResourceInfo) -> String {
    let stored = &row.storage;
    let text = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    let digest = Sha256::digest(text);
    STANDARD.encode(digest.get(..8).unwrap_or_default())
}

/// One document for all groups, or for the one without a name.
pub(crate) fn aggregated(version: &str, rows: &[Row], core: bool) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for row in rows.iter().filter(|row| row.group.is_empty() == core) {
        let item = match items.iter_mut().find(|item| item["metadata"]["name"] == *row.group) {
            Some(item) => item,
            None => {
                items.push(json!({"metadata": {"name": row.group}, "versions": []}));
                let Some(item) = items.last_mut() else { continue };
                item
            }
        };
        let Some(versions) = item["versions"].as_array_mut() else { continue };
        let own = match versions.iter().position(|own| own["version"] == *row.version) {
            Some(own) => own,
            None => {
                let empty =
                    json!({"version": row.version, "freshness": "Current", "resources": []});
                versions.push(empty);
                versions.len() - 1
            }
        };
        if let Some(resources) =
            versions.get_mut(own).and_then(|own| own["resources"].as_array_mut())
        {
            resources.push(aggregated_resource(row));
        }
    }
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_resource(row: &ResourceInfo) -> Value {
    let mut value = json!({
        "resource": row.resource,
        "responseKind": {"group": "", "version": "", "kind": row.kind},
        "scope": if row.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    let parts: Vec<Value> =
        row.subresources.iter().filter(|part| part.served).map(aggregated_part).collect();
    if !parts.is_empty() {
        value["subresources"] = json!(parts);
    }
    value
}

fn aggregated_part(part: &Subresource) -> Value {
    json!({
        "subresource": part.name,
        "responseKind": {"group": part.group, "version": part.version, "kind": part.kind},
        "verbs": part.verbs,
    })
}
