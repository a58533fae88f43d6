//! Paths outside of the resources: health, version, metrics, discovery, OpenAPI, and the
//! routes of [`crate::extension::ROUTES`].

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::body::Body;
use crate::core::Core;
use crate::extension::{self, PlainRequest, PlainRoute};
use crate::negotiate::{self, Accept, Format, Shape};
use crate::query::Query;
use crate::request::RequestInfo;
use crate::status::Status;
use crate::user::{Connection, UserInfo};
use crate::{discovery, health, openapi, render, version};

/// The route of the extensions, if there is one.
pub(crate) fn find(method: &Method, path: &str) -> Option<&'static PlainRoute> {
    extension::ROUTES.iter().find(|route| route.method == *method && matches(route.path, path))
}

fn matches(pattern: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    pattern.split('/').all(|wanted| {
        parts.next().is_some_and(|part| (wanted == "{}" && !part.is_empty()) || wanted == part)
    }) && parts.next().is_none()
}

pub(crate) async fn serve(
    core: &Core,
    user: &UserInfo,
    connection: &Connection,
    head: &Parts,
    query: &Query,
    body: Bytes,
    route: Option<&'static PlainRoute>,
) -> Result<Response<Body>, Status> {
    if let Some(route) = route {
        let request = PlainRequest { user, connection, head, body };
        return (route.handler)(core, request).await;
    }
    let path = head.uri.path();
    if head.method != Method::GET && head.method != Method::HEAD {
        return Ok(not_allowed());
    }
    let first = path.split('/').nth(1).unwrap_or("");
    match first {
        "readyz" | "livez" | "healthz" => Ok(health::serve(core, path, query).await),
        "version" => object(head, query, &version::value()),
        "metrics" => Ok(text(StatusCode::OK, core.metrics.render(core).await)),
        "api" | "apis" => discovery::serve(core, head, query),
        "openapi" => openapi::serve(core, head, query),
        "" => object(head, query, &json!({"paths": paths(core)})),
        _ => Ok(page_not_found()),
    }
}

/// A resource that is not served: within a served version a Status, else no page.
pub(crate) fn unknown(core: &Core, asked: &RequestInfo) -> Response<Body> {
    let known =
        core.registry.rows().any(|row| row.group == asked.group && row.version == asked.version);
    if !known {
        return page_not_found();
    }
    let accept = Accept { format: Format::Json, shape: Shape::Full, pretty: false };
    render::failure(accept, &Status::no_resource())
}

/// An object that is no resource.
pub(crate) fn object(
    head: &Parts,
    query: &Query,
    value: &serde_json::Value,
) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept_object(&head.headers, query, value);
    Ok(render::response(accept, StatusCode::OK, render::encode(accept, value)?))
}

pub(crate) fn text(code: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text.into_bytes()));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

pub(crate) fn page_not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}

/// What upstream's router says when it can write nothing that the client reads.
pub(crate) fn not_acceptable() -> Response<Body> {
    let text_ = "406: Not Acceptable\n\nAvailable representations: application/json, \
                 application/yaml, application/vnd.kubernetes.protobuf";
    text(StatusCode::NOT_ACCEPTABLE, text_.to_owned())
}

fn not_allowed() -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n".to_owned());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

fn paths(core: &Core) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned()];
    for row in core.registry.rows().filter(|row| !row.group.is_empty()) {
        paths.push(format!("/apis/{}", row.group));
        paths.push(format!("/apis/{}/{}", row.group, row.version));
    }
    let others = ["/healthz", "/livez", "/metrics", "/openapi/v3", "/readyz", "/version"];
    paths.extend(others.map(str::to_owned));
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_placeholder_is_one_segment() {
        assert!(matches("/atoll/v1/nodes/{}/ping", "/atoll/v1/nodes/node-1/ping"));
        assert!(!matches("/atoll/v1/nodes/{}/ping", "/atoll/v1/nodes//ping"));
        assert!(!matches("/atoll/v1/nodes/{}/ping", "/atoll/v1/nodes/a/b/ping"));
        assert!(!matches("/atoll/v1/join", "/atoll/v1/join/x"));
    }
}
