//! A request on its way to a server behind this one, and the answer back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;

use super::{Remote, headers};
use crate::body::{Body, BoxError};
use crate::core::Core;
use crate::hook::Lease;
use crate::hop_by_hop;
use crate::pipeline::RequestBody;
use crate::user::{Connection, UserInfo};
use crate::{stream, upgraded};

/// Passes a request on. What goes wrong is told in plain text, as upstream does.
pub(crate) async fn serve(
    core: &Arc<Core>,
    remote: &Remote,
    user: &UserInfo,
    connection: &Connection,
    mut head: Parts,
    body: RequestBody,
) -> Response<Body> {
    if !remote.available {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "service unavailable");
    }
    let target = match &remote.target {
        Ok(target) => target,
        Err(problem) => return refusal(StatusCode::INTERNAL_SERVER_ERROR, problem),
    };
    let client = head.extensions.remove::<OnUpgrade>();
    let upgrades = head.headers.contains_key(UPGRADE);
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let body = if upgrades { empty() } else { body };
    let mut request = match Request::builder().method(head.method.clone()).uri(path).body(body) {
        Ok(request) => request,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    *request.headers_mut() =
        headers::forwarded(&head.headers, user, target.authority(), connection.remote);
    let (mut answer, lease) = match core.hooks.send(target, request).await {
        Ok(answered) => answered,
        Err(error) => {
            let text = format!("error trying to reach service: {error}");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, &text);
        }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = client else {
            return refusal(StatusCode::BAD_REQUEST, "unable to upgrade: this is no HTTP/1.1");
        };
        let server = hyper::upgrade::on(&mut answer);
        let (response, upgraded) = upgraded::switching(answer.headers().clone());
        stream::join(core, client, server, upgraded);
        return response;
    }
    let (mut head, body) = answer.into_parts();
    hop_by_hop::strip(&mut head.headers);
    Response::from_parts(head, Body::wrap(Relayed { body, lease: Some(lease) }))
}

fn empty() -> RequestBody {
    http_body_util::Empty::new().map_err(|never| -> BoxError { match never {} }).boxed_unsync()
}

fn refusal(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{text}\n").into_bytes()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(HeaderName::from_static("x-content-type-options"), nosniff);
    response
}

/// The body of an answer. Its connection serves again once it has been read.
struct Relayed {
    body: Incoming,
    lease: Option<Lease>,
}

impl hyper::body::Body for Relayed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none()
            && let Some(lease) = self.lease.take()
        {
            lease.give_back();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
