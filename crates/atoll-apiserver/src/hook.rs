//! Calls to HTTP servers outside of this one: admission and conversion webhooks, and API
//! servers behind ours.
//!
//! A [`Target`] is made once of a `clientConfig`, says where the server is and whom to trust
//! there, and is cheap to share. A [`Client`] keeps connections and knows which pods stand
//! behind a Service. Errors are in the words that upstream's users search for.

mod answer;
mod dial;
mod error;
mod pool;
mod resolve;
mod target;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::BoxError;
use crate::pipeline::RequestBody;
use crate::registry::Registry;

pub use answer::refusal_text;
pub use error::{HookError, SendError};
pub(crate) use pool::Lease;
pub use target::{Identity, Target, TargetError};

use pool::Pool;

/// Endpoints of one Service that a request tries before it gives up.
const ENDPOINTS_MAX: usize = 3;
/// Bytes of an answer to [`Client::post`]: a review of the largest objects, with room for a
/// patch of the same size in base64.
pub const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that a server of ours says about itself when it calls another.
const AGENT: HeaderValue = HeaderValue::from_static("kube-apiserver-admission");

/// TLS with whoever answers at an address, for the proxies to pods and Services.
///
/// # Errors
///
/// When TLS cannot be set up.
pub(crate) fn trusting() -> Result<Arc<rustls::ClientConfig>, TargetError> {
    tls::config(&tls::Verify::Nothing, None)
}

/// Calls servers. One for each API server; clones share connections.
#[derive(Clone)]
pub struct Client {
    registry: Arc<Registry>,
    pool: Arc<Pool>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Client {
    /// Connections are tasks of `tasks` and end with `stop`.
    pub fn new(registry: Arc<Registry>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { registry, pool: Arc::new(Pool::default()), tasks, stop }
    }

    /// Posts JSON and gives the body of the answer, which must be a success of at most
    /// [`ANSWER_BYTES_MAX`]. The whole call takes at most `timeout`, of which the server is told.
    ///
    /// # Errors
    ///
    /// When no server is reached, it answers no success, or too much, or too late.
    pub async fn post(
        &self,
        target: &Target,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, HookError> {
        let (path, url) = target.with_timeout(timeout);
        match tokio::time::timeout(timeout, self.post_within(target, &path, body)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Failure::Send(source))) => Err(HookError::Send { method: "Post", url, source }),
            Ok(Err(Failure::Refused(text))) => Err(HookError::Refused { text }),
            Err(_elapsed) => {
                Err(HookError::Send { method: "Post", url, source: SendError::Deadline })
            }
        }
    }

    async fn post_within(
        &self,
        target: &Target,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let request = request(target, path, body).map_err(Failure::Send)?;
        let (response, lease) = self.send(target, request).await.map_err(Failure::Send)?;
        let (head, body) = response.into_parts();
        let body = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(Failure::Send(SendError::TooLarge { bytes_max: ANSWER_BYTES_MAX }));
            }
            Err(error) => return Err(Failure::Send(SendError::Broken { text: error.to_string() })),
        };
        lease.give_back();
        if head.status.is_success() {
            return Ok(body);
        }
        Err(Failure::Refused(refusal_text(head.status, &head.headers, &body)))
    }

    /// Sends one request and gives the head of the answer; its body is still to be read, and
    /// then the connection may be given back. The request's path is what the server sees.
    ///
    /// # Errors
    ///
    /// When no server is reached or the connection ends before an answer.
    pub(crate) async fn send(
        &self,
        target: &Target,
        mut request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let addresses = resolve::addresses(&self.registry, target).await?;
        for key in addresses.iter().map(|address| target.connection_key(address)) {
            while let Some(mut lease) = self.pool.take(&key).await {
                match lease.try_send(request).await {
                    Ok(response) => return Ok((response, lease)),
                    // Not a byte of it went out: the connection had just ended.
                    Err((_, Some(unsent))) => request = unsent,
                    Err((error, None)) => return Err(error),
                }
            }
        }
        let mut failure = None;
        for address in addresses.iter().take(ENDPOINTS_MAX) {
            match dial::connect(target, address).await {
                Ok(stream) => {
                    let key = target.connection_key(address);
                    let opened = self.pool.open(key, stream, &self.tasks, &self.stop).await;
                    let mut lease = opened?;
                    let sent = lease.try_send(request).await;
                    return sent.map(|answer| (answer, lease)).map_err(|(error, _)| error);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| SendError::Resolve { text: target.no_endpoints() }))
    }
}

/// Why a post got no good answer.
enum Failure {
    Send(SendError),
    Refused(String),
}

fn request(target: &Target, path: &str, body: Bytes) -> Result<Request<RequestBody>, SendError> {
    let body = Full::new(body).map_err(|never| -> BoxError { match never {} }).boxed_unsync();
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, target.authority())
        .header(ACCEPT, "application/json, */*")
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, AGENT)
        .body(body)
        .map_err(|error| SendError::Broken { text: error.to_string() })
}
