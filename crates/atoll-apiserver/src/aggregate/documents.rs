//! Discovery and OpenAPI of servers behind this one, merged into this server's own documents.

use atoll_api::access::Access as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Aggregate, Remote, Said};
use crate::body::Body;
use crate::core::Core;

/// Whether a document has a part of them.
fn concerns(path: &str) -> bool {
    matches!(path, "/apis" | "/apis/" | "/openapi/v3" | "/openapi/v3/")
        || path
            .strip_prefix("/apis/")
            .is_some_and(|group| !group.trim_end_matches('/').contains('/'))
}

/// Takes out of a request which document its sender has already: whether that is still the same is
/// seen when it has been merged.
pub(crate) fn take_known(core: &Core, head: &mut Parts) -> Option<HeaderValue> {
    if core.aggregate.current().remotes.is_empty() || !concerns(head.uri.path()) {
        return None;
    }
    head.headers.remove(IF_NONE_MATCH)
}

/// An answer with what the servers behind this one add to it. `known` is the tag of what the client
/// has.
pub(crate) fn merge(
    core: &Core,
    head: &Parts,
    known: Option<HeaderValue>,
    response: Response<Body>,
) -> Response<Body> {
    let path = head.uri.path();
    let remotes = core.aggregate.current().remotes.clone();
    if remotes.is_empty() || !concerns(path) {
        return response;
    }
    let Some(document) = response.body().whole() else { return response };
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_none_or(|kind| kind.starts_with("application/json"));
    let group = path.strip_prefix("/apis/").map(|group| group.trim_end_matches('/'));
    let one = group.filter(|group| !group.is_empty());
    let found = response.status() == StatusCode::OK;
    if !is_json && found {
        return response;
    }
    let merged = match (one, found) {
        (Some(group), found) => {
            let own = found.then(|| serde_json::from_slice(document).ok()).flatten();
            one_group(&core.aggregate, own, group, &remotes)
        }
        (None, true) => serde_json::from_slice(document).ok().map(|mut document: Value| {
            all(&core.aggregate, path, &mut document, &remotes);
            document
        }),
        (None, false) => None,
    };
    match merged {
        Some(merged) => respond(known.as_ref(), response, &merged),
        None => response,
    }
}

fn respond(
    known: Option<&HeaderValue>,
    response: Response<Body>,
    merged: &Value,
) -> Response<Body> {
    let bytes = merged.to_string().into_bytes();
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{hash}\"");
    let (mut parts, _) = response.into_parts();
    let tagged = parts.headers.contains_key(ETAG);
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    if parts.status == StatusCode::NOT_FOUND {
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    parts.status = StatusCode::OK;
    let asked = known.and_then(|value| value.to_str().ok());
    if tagged && let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(ETAG, value);
        if asked.is_some_and(|asked| asked.contains(&tag)) {
            parts.status = StatusCode::NOT_MODIFIED;
            return Response::from_parts(parts, Body::empty());
        }
    }
    Response::from_parts(parts, Body::from(bytes))
}

fn all(
    aggregate: &Aggregate,
    path: &str,
    document: &mut Value,
    remotes: &[std::sync::Arc<Remote>],
) {
    let said = aggregate.said().clone();
    for remote in remotes {
        let own = said.get(&remote.name);
        if path.starts_with("/openapi") {
            openapi(document, remote, own);
        } else if document.text("kind") == "APIGroupDiscoveryList" {
            aggregated(document, remote, own);
        } else {
            group_list(document, remote);
        }
    }
}

fn openapi(index: &mut Value, remote: &Remote, said: Option<&Said>) {
    let place = format!("apis/{}/{}", remote.group, remote.version);
    if let Some(paths) = index.get_mut("paths").and_then(Value::as_object_mut) {
        match said.map(|said| said.openapi.as_str()).filter(|url| !url.is_empty()) {
            Some(url) => paths.insert(place, json!({"serverRelativeURL": url})),
            None => paths.remove(&place),
        };
    }
}

fn group_version(remote: &Remote) -> Value {
    let text = format!("{}/{}", remote.group, remote.version);
    json!({"groupVersion": text, "version": remote.version})
}

fn group_list(list: &mut Value, remote: &Remote) {
    let Some(groups) = list.get_mut("groups").and_then(Value::as_array_mut) else { return };
    match groups.iter_mut().find(|group| group.text("name") == remote.group) {
        Some(group) => add_version(group, remote),
        None => groups.push(new_group(remote)),
    }
}

fn new_group(remote: &Remote) -> Value {
    let version = group_version(remote);
    json!({"name": remote.group, "versions": [version.clone()], "preferredVersion": version})
}

fn add_version(group: &mut Value, remote: &Remote) {
    let version = group_version(remote);
    if let Some(versions) = group.get_mut("versions").and_then(Value::as_array_mut)
        && !versions.contains(&version)
    {
        versions.push(version);
    }
}

fn one_group(
    _: &Aggregate,
    own: Option<Value>,
    group: &str,
    remotes: &[std::sync::Arc<Remote>],
) -> Option<Value> {
    let mut found = own;
    for remote in remotes.iter().filter(|remote| remote.group == group) {
        match &mut found {
            Some(group) => add_version(group, remote),
            None => {
                let mut group = new_group(remote);
                group["kind"] = json!("APIGroup");
                group["apiVersion"] = json!("v1");
                found = Some(group);
            }
        }
    }
    found
}

/// A version of a group in an aggregated document. One that is away is shown as stale.
fn aggregated(list: &mut Value, remote: &Remote, said: Option<&Said>) {
    let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) else { return };
    let at = match items.iter().position(|item| item["metadata"].text("name") == remote.group) {
        Some(at) => at,
        None => {
            items.push(json!({"metadata": {"name": remote.group}, "versions": []}));
            items.len() - 1
        }
    };
    let Some(versions) = items[at].get_mut("versions").and_then(Value::as_array_mut) else {
        return;
    };
    versions.retain(|version| version.text("version") != remote.version);
    let (freshness, resources) = match said {
        Some(said) => ("Current", resources(&said.resources, remote)),
        None => ("Stale", Vec::new()),
    };
    versions.push(json!({
        "version": remote.version, "freshness": freshness, "resources": resources,
    }));
}

/// The resources of an APIResourceList, their parts below them.
fn resources(list: &Value, remote: &Remote) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    let kind = |resource: &Value| {
        let group = resource.opt_text("group").filter(|group| !group.is_empty());
        let version = resource.opt_text("version").filter(|version| !version.is_empty());
        json!({
            "group": group.unwrap_or(&remote.group),
            "version": version.unwrap_or(&remote.version),
            "kind": resource.text("kind"),
        })
    };
    for resource in list.items("resources") {
        let name = resource.text("name");
        if let Some((of, part)) = name.split_once('/') {
            let Some(owner) = found.iter_mut().find(|one| one.text("resource") == of) else {
                continue;
            };
            let own = json!({
                "subresource": part, "responseKind": kind(resource), "verbs": resource["verbs"],
            });
            match owner.get_mut("subresources").and_then(Value::as_array_mut) {
                Some(parts) => parts.push(own),
                None => owner["subresources"] = json!([own]),
            }
            continue;
        }
        let scope = if resource.flag("namespaced") { "Namespaced" } else { "Cluster" };
        let mut own = json!({
            "resource": name,
            "responseKind": kind(resource),
            "scope": scope,
            "singularResource": resource.text("singularName"),
            "verbs": resource["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if resource.has(field) {
                own[field] = resource[field].clone();
            }
        }
        found.push(own);
    }
    found
}
