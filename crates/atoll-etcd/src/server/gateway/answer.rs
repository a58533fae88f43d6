//! Answers of calls as answers of HTTP.

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use prost_reflect::MessageDescriptor;
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::{Code, Status};

use super::frames::Unframed;
use super::json;

/// What the call was answered in, for whoever looks.
const KIND: &str = "grpc-metadata-content-type";

/// The status of HTTP for a code of gRPC (`google/rpc/code.proto`).
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A call that was not done.
pub(super) fn refusal(refused: &Status) -> Response<Body> {
    let said = json!({
        "error": refused.message(),
        "code": i32::from(refused.code()),
        "message": refused.message(),
        "details": [],
    });
    respond(http_status(refused.code()), Body::new(Full::from(said.to_string())))
}

/// The end of a stream that has begun.
fn end(refused: &Status) -> Value {
    let status = http_status(refused.code());
    json!({ "error": {
        "grpc_code": i32::from(refused.code()),
        "http_code": status.as_u16(),
        "message": refused.message(),
        "http_status": status.canonical_reason().unwrap_or_default(),
        "code": i32::from(refused.code()),
        "details": [],
    } })
}

/// A stream that ended before it told anything.
pub(super) fn refused_stream(refused: &Status) -> Response<Body> {
    respond(http_status(refused.code()), Body::new(Full::from(end(refused).to_string())))
}

/// The messages of an answer of gRPC as JSON, and how it ends.
pub(super) struct Messages {
    body: Body,
    kind: MessageDescriptor,
    unframed: Unframed,
    ended: bool,
}

impl Messages {
    pub(super) fn new(body: Body, kind: MessageDescriptor) -> Self {
        Self { body, kind, unframed: Unframed::default(), ended: false }
    }

    pub(super) async fn one(mut self) -> Result<Response<Body>, Status> {
        let missing = || Status::internal("a call was answered with nothing");
        let text = self.text().await?.ok_or_else(missing)?;
        // The status comes last.
        match self.next().await? {
            None => Ok(respond(StatusCode::OK, Body::new(Full::from(text)))),
            Some(_) => Err(Status::internal("a call was answered twice")),
        }
    }

    /// One text a line, as they come. What ends it before the first is an error of the call, by
    /// which clients try another server.
    pub(super) async fn stream(mut self) -> Result<Response<Body>, Status> {
        let Some(first) = self.text().await? else {
            return Ok(respond(StatusCode::OK, Body::empty()));
        };
        let rest = futures::stream::unfold(Some(self), |messages| async move {
            let mut messages = messages?;
            Some(match messages.text().await {
                Ok(text) => (result(&text?), Some(messages)),
                Err(refused) => (format!("{}\n", end(&refused)).into_bytes(), None),
            })
        });
        let lines = futures::stream::iter([result(&first)]).chain(rest);
        let frames = lines.map(|line| Ok::<_, Status>(Frame::data(line.into())));
        Ok(respond(StatusCode::OK, Body::new(StreamBody::new(frames))))
    }

    async fn text(&mut self) -> Result<Option<Vec<u8>>, Status> {
        match self.next().await? {
            Some(message) => json::text(message, self.kind.clone()).await.map(Some),
            None => Ok(None),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.unframed.next()? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            let Some(frame) = self.body.frame().await else {
                self.ended = true;
                continue;
            };
            match frame?.into_data() {
                Ok(part) => self.unframed.add(&part),
                Err(frame) => {
                    self.ended = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::from_header_map(&trailers);
                    if let Some(refused) = status.filter(|status| status.code() != Code::Ok) {
                        return Err(refused);
                    }
                }
            }
        }
    }
}

fn result(text: &[u8]) -> Vec<u8> {
    [b"{\"result\":", text, b"}\n"].concat()
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(KIND, HeaderValue::from_static("application/grpc"));
    response
}
