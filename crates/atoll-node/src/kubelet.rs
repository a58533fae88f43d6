//! The kubelet API on port 10250: logs, exec, attach, port-forward, health, metrics.
//!
//! Clients with a certificate of the API server's kubelet-client authority get in, and others
//! with a token that the API vouches for ([`access`]).
//! The agent ends the client's own protocol (WebSocket or SPDY); the API server only
//! passes bytes on.

pub mod access;
pub mod configz;
pub mod exec;
pub mod files;
pub mod forward;
pub mod log_file;
pub mod logs;
pub mod metrics;
pub mod probed;
pub mod remote;
pub mod resource;
pub mod routes;
pub mod running;
pub mod server;
pub mod spdy;
pub mod stats;
pub mod upgrade;
pub mod usage;
pub mod websocket;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;
pub(crate) type Answer = Response<Body>;

/// A plain-text answer.
pub(crate) fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let body = Full::new(Bytes::from(text.into())).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

/// A JSON answer.
pub(crate) fn json(value: &serde_json::Value) -> Answer {
    let mut answer = text(StatusCode::OK, value.to_string());
    let kind = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
