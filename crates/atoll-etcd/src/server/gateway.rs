//! The gateway: the calls of the API as JSON over HTTP, at the paths at which an etcd has them.
//!
//! A body becomes the message of the call, goes through the same router as a call of gRPC, and the
//! answer becomes JSON again: proto3's mapping to JSON with the names of the `.proto` files, as
//! etcd's gateway has it. A stream answers one JSON text a line. Refusals carry the fields of the
//! gateways of etcd 3.5 and 3.6 both.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use prost_reflect::MethodDescriptor;
use tonic::body::Body;
use tonic::{Code, Status};

use super::plain;
use super::router::Router;

mod answer;
mod calls;
mod frames;
pub(super) mod fuzz;
mod json;
mod requests;

/// What all paths of the gateway begin with.
const PREFIX: &str = "/v3/";
/// Headers of a request that become metadata of the call without this.
const METADATA: &str = "grpc-metadata-";
const AUTHORIZATION: HeaderName = header::AUTHORIZATION;
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

pub(super) fn owns(path: &str) -> bool {
    path.starts_with(PREFIX)
}

pub(super) async fn serve(router: Router, request: Request<Incoming>) -> Response<Body> {
    let Some((path, method)) = calls::at(request.uri().path()) else {
        return plain::error(StatusCode::NOT_FOUND, "Not Found");
    };
    if request.method() != Method::POST {
        return plain::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    if request.headers().contains_key(header::ORIGIN) {
        return answer::refusal(&from_a_page());
    }
    let (head, body) = request.into_parts();
    let messages = if method.is_client_streaming() {
        requests::stream(body, method.input(), router.message_bytes_max())
    } else {
        match only(body, &method, router.message_bytes_max()).await {
            Ok(message) => Body::new(Full::from(message)),
            Err(refused) => return answer::refusal(&refused),
        }
    };
    let answered = router.call(call(&path, &head.headers, messages)).await;
    if let Some(refused) = Status::from_header_map(answered.headers())
        && refused.code() != Code::Ok
    {
        return answer::refusal(&refused);
    }
    if method.is_server_streaming() {
        return answer::stream(answered.into_body(), method.output());
    }
    answer::one(answered.into_body(), method.output()).await
}

/// The one message of a call; what follows it is not read, as by etcd's gateway.
async fn only(body: Incoming, method: &MethodDescriptor, max: usize) -> Result<Bytes, Status> {
    let read = Limited::new(body, json::bytes_max(max)).collect().await;
    let body = read.map_err(|error| Status::invalid_argument(error.to_string()))?.to_bytes();
    json::message(&body, method.input()).map(|message| frames::framed(&message))
}

/// A call of gRPC that nobody sent.
fn call(path: &str, headers: &HeaderMap, messages: Body) -> Request<Body> {
    let mut call = Request::new(messages);
    *call.method_mut() = Method::POST;
    *call.version_mut() = http::Version::HTTP_2;
    // Paths of calls are those of a table.
    *call.uri_mut() = path.parse().unwrap_or_default();
    let grpc = HeaderValue::from_static("application/grpc");
    call.headers_mut().insert(header::CONTENT_TYPE, grpc);
    for (name, value) in headers {
        if let Some(name) = metadata(name) {
            call.headers_mut().append(name, value.clone());
        }
    }
    call
}

fn metadata(name: &HeaderName) -> Option<HeaderName> {
    if *name == AUTHORIZATION || *name == TIMEOUT {
        return Some(name.clone());
    }
    let rest = name.as_str().strip_prefix(METADATA)?;
    // What gRPC itself reads is not the client's to say.
    (!rest.starts_with("grpc-")).then(|| rest.parse().ok()).flatten()
}

/// A browser says so of what a page of some other server makes it send. Such a page could write
/// here in the name of whoever looks at it.
fn from_a_page() -> Status {
    Status::permission_denied(
        "requests of web pages are refused: this one has the header Origin; send it from a program",
    )
}
