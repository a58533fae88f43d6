//! The gateway: the calls of the API as JSON over HTTP, at the paths at which an etcd has them.
//!
//! A body becomes the message of the call, goes through the same router as a call of gRPC, and the
//! answer becomes JSON again: proto3's mapping to JSON with the names of the `.proto` files, as
//! etcd's gateway of 3.5 has it. A stream answers one JSON text a line. Refusals carry the fields of
//! the gateways of etcd 3.5 and 3.6 both.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use prost_reflect::MethodDescriptor;
use tonic::body::Body;
use tonic::{Code, Status};

use super::router::Router;
use super::{deadline, error, plain};

mod answer;
mod calls;
mod frames;
pub(super) mod fuzz;
mod json;
mod requests;
mod timeout;

/// What all paths of the gateway begin with, and what they began with in early releases: an etcd
/// still takes that.
const PREFIX: &str = "/v3/";
const OLD_PREFIX: &str = "/v3beta/";
/// Headers of a request that become metadata of the call without this.
const METADATA: &str = "grpc-metadata-";
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The body of a call that takes one message has come by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn owns(path: &str) -> bool {
    path.starts_with(PREFIX) || path.starts_with(OLD_PREFIX)
}

pub(super) async fn serve(router: Router, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path();
    let rest = path.strip_prefix(OLD_PREFIX).or_else(|| path.strip_prefix(PREFIX));
    let Some((path, method)) = rest.and_then(calls::at) else {
        return plain::error(StatusCode::NOT_FOUND, "Not Found");
    };
    if request.method() != Method::POST {
        return plain::error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    if request.headers().contains_key(header::ORIGIN) {
        return answer::refusal(&from_a_page());
    }
    match passed_on(router, &path, &method, request).await {
        Ok(answered) => answered,
        Err(refused) if method.is_server_streaming() => answer::refused_stream(&refused),
        Err(refused) => answer::refusal(&refused),
    }
}

async fn passed_on(
    router: Router,
    path: &str,
    method: &MethodDescriptor,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let timeout = timeout::of(request.headers())?;
    let (head, body) = request.into_parts();
    let max = router.message_bytes_max();
    let messages = if method.is_client_streaming() {
        requests::stream(body, method.input(), max)
    } else {
        let come = tokio::select! {
            come = only(body, method, max) => come?,
            () = router.stops() => return Err(error::STOPPED.into()),
            () = tokio::time::sleep(timeout.unwrap_or(BODY_TIMEOUT).min(BODY_TIMEOUT)) => {
                return Err(deadline::exceeded());
            }
        };
        Body::new(Full::from(come))
    };
    let call = call(path, &head.headers, timeout, messages);
    let answered = router.call(call).await;
    if let Some(refused) = Status::from_header_map(answered.headers())
        && refused.code() != Code::Ok
    {
        return Err(refused);
    }
    let messages = answer::Messages::new(answered.into_body(), method.output());
    if method.is_server_streaming() { messages.stream().await } else { messages.one().await }
}

/// The one message of a call; what follows it is not read, as by etcd's gateway.
async fn only(body: Incoming, method: &MethodDescriptor, max: usize) -> Result<Bytes, Status> {
    let limit = json::bytes_max(max);
    let read = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Status::resource_exhausted(format!(
                "grpc: received message larger than max (more than {limit} vs. {max})"
            ))
        } else {
            Status::invalid_argument(error.to_string())
        }
    })?;
    json::message(read.to_bytes(), method.input()).await.map(|message| frames::framed(&message))
}

/// A call of gRPC that nobody sent.
fn call(
    path: &str,
    headers: &HeaderMap,
    timeout: Option<Duration>,
    messages: Body,
) -> Request<Body> {
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
    if let Some(timeout) = timeout {
        call.headers_mut().insert(TIMEOUT, timeout::header(timeout));
    }
    call
}

fn metadata(name: &HeaderName) -> Option<HeaderName> {
    if *name == header::AUTHORIZATION {
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
        "requests of web pages are refused, and this one has the header Origin: send it without",
    )
}
