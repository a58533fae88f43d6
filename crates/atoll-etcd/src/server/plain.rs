//! What etcd answers besides gRPC on the port of its clients: health, version and metrics, over
//! HTTP/1.1 or HTTP/2.

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::body::Body;

use super::maintenance::STORAGE_VERSION;
use super::{Core, ETCD_VERSION, health, metrics};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// `None` for calls of gRPC.
pub(super) async fn answer(core: &Core, request: &Request<Incoming>) -> Option<Response<Body>> {
    let (path, query) = (request.uri().path(), Query(request.uri().query().unwrap_or_default()));
    let is_get = request.method() == Method::GET;
    let checks = health::checks(path);
    match path {
        "/metrics" => {
            return Some(respond(StatusCode::OK, metrics::KIND, metrics::page(core).await));
        }
        "/health" | "/version" if !is_get => return Some(not_allowed()),
        "/health" => return Some(health(core, query).await),
        "/version" => return Some(respond(StatusCode::OK, JSON, version())),
        _ if checks.is_some() && !is_get => return Some(not_allowed()),
        _ => {}
    }
    if let Some(checks) = checks {
        return Some(match checks.run(core, query).await {
            Ok(passed) => unsniffed(respond(StatusCode::OK, TEXT, passed)),
            Err(failed) => error(StatusCode::SERVICE_UNAVAILABLE, &failed),
        });
    }
    if is_call(request) {
        return None;
    }
    Some(error(StatusCode::NOT_FOUND, "404 page not found"))
}

/// As grpc-go and an etcd tell them: a page of a browser can post anything else.
fn is_call(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    request.method() == Method::POST
        && request.version() == http::Version::HTTP_2
        && kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What follows the `?`. The names that are looked for here need no escapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a>(pub(super) &'a str);

impl<'a> Query<'a> {
    /// Its values, of each time that it is given.
    pub(super) fn all(self, name: &str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(given, _)| *given == name).map(|(_, value)| value)
    }
}

async fn health(core: &Core, query: Query<'_>) -> Response<Body> {
    let found = health::health(core, query).await;
    let (is_well, reason) = (found.is_ok(), found.err().unwrap_or_default());
    let said = serde_json::json!({"health": is_well.to_string(), "reason": reason}).to_string();
    match is_well {
        true => respond(StatusCode::OK, TEXT, said),
        false => error(StatusCode::SERVICE_UNAVAILABLE, &said),
    }
}

fn version() -> String {
    format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{STORAGE_VERSION}","storage":"{STORAGE_VERSION}"}}"#
    )
}

fn not_allowed() -> Response<Body> {
    let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    answer
}

/// A refusal, as Go's servers write it.
pub(super) fn error(status: StatusCode, said: &str) -> Response<Body> {
    unsniffed(respond(status, TEXT, format!("{said}\n")))
}

fn unsniffed(mut answer: Response<Body>) -> Response<Body> {
    const NAME: HeaderName = header::X_CONTENT_TYPE_OPTIONS;
    answer.headers_mut().insert(NAME, HeaderValue::from_static("nosniff"));
    answer
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
