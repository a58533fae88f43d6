//! Answers of calls as answers of HTTP.

use bytes::Bytes;
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

pub(super) async fn one(body: Body, kind: MessageDescriptor) -> Response<Body> {
    match first(body).await.and_then(|message| json::text(message, kind)) {
        Ok(text) => respond(StatusCode::OK, Body::new(Full::from(text))),
        Err(refused) => refusal(&refused),
    }
}

async fn first(body: Body) -> Result<Bytes, Status> {
    let mut messages = Messages { body, unframed: Unframed::default(), ended: false };
    let missing = || Status::internal("a call was answered with nothing");
    let message = messages.next().await?.ok_or_else(missing)?;
    // The status comes last.
    match messages.next().await? {
        None => Ok(message),
        Some(_) => Err(Status::internal("a call was answered twice")),
    }
}

/// One text a line, as they come.
pub(super) fn stream(body: Body, kind: MessageDescriptor) -> Response<Body> {
    let messages = Messages { body, unframed: Unframed::default(), ended: false };
    let lines = futures::stream::unfold(Some(messages), move |messages| {
        let kind = kind.clone();
        async move {
            let mut messages = messages?;
            let text = match messages.next().await {
                Ok(message) => json::text(message?, kind),
                Err(refused) => Err(refused),
            };
            Some(match text {
                Ok(text) => {
                    let line = [b"{\"result\":", text.as_slice(), b"}\n"].concat();
                    (line, Some(messages))
                }
                Err(refused) => (format!("{}\n", end(&refused)).into_bytes(), None),
            })
        }
    });
    let frames = futures::StreamExt::map(lines, |line| Ok::<_, Status>(Frame::data(line.into())));
    respond(StatusCode::OK, Body::new(StreamBody::new(frames)))
}

/// The messages of an answer of gRPC, and how it ends.
struct Messages {
    body: Body,
    unframed: Unframed,
    ended: bool,
}

impl Messages {
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
            let frame = frame?;
            match frame.into_data() {
                Ok(part) => self.unframed.add(&part),
                Err(frame) => {
                    self.ended = true;
                    let trailers = frame.into_trailers().unwrap_or_default();
                    match Status::from_header_map(&trailers) {
                        Some(status) if status.code() != Code::Ok => return Err(status),
                        _ => {}
                    }
                }
            }
        }
    }
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(KIND, HeaderValue::from_static("application/grpc"));
    response
}
