//! Log, exec, attach and port-forward: tunnels to the kubelet of the pod's node.
//!
//! The server checks who asks and finds the node; the bytes, whatever their framing, are
//! between the client and the kubelet.

mod copy;
mod dial;
pub(crate) mod frames;
mod log_options;
mod target;

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::admission::{self, Operation};
use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::core::Core;
use crate::status::Status;
use crate::upgraded::{self, Upgraded};
pub(crate) use dial::{reason as connect_reason, to_kubelet};
use target::Target;
pub(crate) use target::kubelet;

/// Bytes both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Bytes of an error's body that are shown to the client.
const ERROR_BYTES_MAX: usize = 10_000;
/// A kubelet that takes longer to answer an upgrade.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Parts of a pod that are streams both ways.
pub(crate) fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward")
}

/// Connects the client to the kubelet.
pub(crate) async fn serve(
    call: Call,
    head: Parts,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let allowed = call.part.as_ref().is_some_and(|part| part.verbs.contains(&call.info.verb));
    if !allowed {
        return Err(Status::method_not_allowed());
    }
    let stream = is_stream(call.subresource());
    if stream {
        let mut options = options(&call);
        let request = call.admission(Operation::Connect, call.name(), None, false);
        admission::admit(&call.core, &request, &mut options).await?;
        admission::validate(&call.core, &request, &options).await?;
    }
    if !stream {
        log_options::check(&call)?;
    }
    let Some(target) = Target::find(&call).await? else { return Ok(plain_text(Body::empty())) };
    if stream {
        tunnel(&call, head, upgrade, &target).await
    } else {
        log(&call, upgrade, &target).await
    }
}

/// What the client wants of the stream, as the object that admission sees: `PodAttachOptions`
/// and its like.
fn options(call: &Call) -> Value {
    let kind = call.part.as_ref().map_or("", |part| &*part.kind);
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if call.subresource() == "portforward" {
        let ports: Vec<u16> =
            call.query.all("ports").filter_map(|port| port.parse().ok()).collect();
        if !ports.is_empty() {
            options["ports"] = json!(ports);
        }
        return options;
    }
    for flag in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.flag(flag) {
            options[flag] = json!(true);
        }
    }
    let container = call.query.text("container");
    if !container.is_empty() {
        options["container"] = json!(container);
    }
    if call.subresource() == "exec" {
        options["command"] = json!(call.query.all("command").collect::<Vec<_>>());
    }
    options
}

async fn log(
    call: &Call,
    upgrade: Option<OnUpgrade>,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let request = request(Method::GET, target, &HeaderMap::new())?;
    let answer = send(call, target, request).await.map_err(|why| {
        Status::server_error(format!("Get \"https://{}{}\": {why}", target.authority, target.path))
    })?;
    if !answer.status().is_success() {
        return Err(refusal(answer).await);
    }
    if let Some(client) = upgrade.filter(|_| frames::is_asked(&call.headers)) {
        return frames::answer(call, client, answer.into_body());
    }
    let content_type = answer.headers().get(CONTENT_TYPE).cloned();
    let mut response = plain_text(Body::wrap(answer.into_body()));
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    Ok(response)
}

fn plain_text(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

async fn tunnel(
    call: &Call,
    head: Parts,
    upgrade: Option<OnUpgrade>,
    target: &Target,
) -> Result<Response<Body>, Status> {
    let wanted = call.headers.get(UPGRADE).cloned();
    let (Some(client), Some(_)) = (upgrade, wanted) else {
        return Err(Status::bad_request("Upgrade request required"));
    };
    let request = request(head.method, target, &call.headers)?;
    let mut answer = send(call, target, request)
        .await
        .map_err(|why| Status::server_error(format!("error dialing backend: {why}")))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(answer).await);
    }
    let kubelet = hyper::upgrade::on(&mut answer);
    let (response, upgraded) = upgraded::switching(answer.headers().clone());
    join(&call.core, client, kubelet, upgraded);
    Ok(response)
}

/// Carries bytes between two upgraded connections until both have ended.
pub(crate) fn join(core: &Core, client: OnUpgrade, server: OnUpgrade, upgraded: Upgraded) {
    let stop = core.stop.clone();
    core.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = connect(client, server) => {}
        }
        drop(upgraded);
    });
}

async fn connect(client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match futures::future::try_join(client, server).await {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was not completed");
            return;
        }
    };
    if let Err(error) = copy::both(TokioIo::new(client), TokioIo::new(server)).await {
        tracing::debug!(%error, "a stream to a server behind this one ended");
    }
}

/// The request to the kubelet. The headers that make the upgrade go along, nothing that
/// proves who the client is.
fn request(
    method: Method,
    target: &Target,
    headers: &HeaderMap,
) -> Result<Request<Empty<bytes::Bytes>>, Status> {
    let mut request = Request::builder()
        .method(method)
        .uri(&target.path)
        .header(http::header::HOST, &target.authority)
        .body(Empty::new())
        .map_err(|error| Status::bad_request(error.to_string()))?;
    for (name, value) in headers {
        let text = name.as_str();
        let forwarded = *name == CONNECTION
            || *name == UPGRADE
            || text == "x-stream-protocol-version"
            || (text.starts_with("sec-websocket-") && text != "sec-websocket-protocol");
        if forwarded {
            request.headers_mut().append(name.clone(), value.clone());
        }
        if text == "sec-websocket-protocol"
            && let Some(protocols) = without_token(value)
        {
            request.headers_mut().append(name.clone(), protocols);
        }
    }
    Ok(request)
}

/// Browsers put a bearer token among the protocols; it is for this server only.
pub(crate) fn without_token(protocols: &HeaderValue) -> Option<HeaderValue> {
    let kept: Vec<&str> = protocols
        .to_str()
        .ok()?
        .split(',')
        .map(str::trim)
        .filter(|one| !one.starts_with("base64url.bearer.authorization.k8s.io."))
        .collect();
    HeaderValue::from_str(&kept.join(", ")).ok().filter(|value| !value.is_empty())
}

async fn send(
    call: &Call,
    target: &Target,
    request: Request<Empty<bytes::Bytes>>,
) -> Result<Response<Incoming>, dial::DialError> {
    let stream = to_kubelet(call, &target.host, &target.authority).await?;
    tokio::time::timeout(ANSWER_TIMEOUT, ask(call, stream, request))
        .await
        .map_err(|_late| dial::DialError::Late { authority: target.authority.clone() })?
        .map_err(|source| dial::DialError::Http { source })
}

/// Sends a request over a connection of its own, which ends with the answer's body or becomes
/// what both sides upgrade it to.
pub(crate) async fn ask<S, B>(
    call: &Call,
    stream: S,
    request: Request<B>,
) -> Result<Response<Incoming>, hyper::Error>
where
    S: Io + 'static,
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let stop = call.core.stop.clone();
    call.core.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%error, "a connection to a kubelet or a pod ended");
            }
        }
    });
    sender.send_request(request).await
}

/// What the kubelet says when it does not do it, as upstream passes it on.
async fn refusal(answer: Response<Incoming>) -> Status {
    let code = answer.status();
    let body = Limited::new(answer.into_body(), ERROR_BYTES_MAX).collect().await;
    let text = body.map(|body| body.to_bytes()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim_end().to_owned();
    match code {
        StatusCode::BAD_REQUEST => Status::bad_request(text),
        StatusCode::NOT_FOUND => Status::from_kubelet(code, "NotFound", text),
        StatusCode::INTERNAL_SERVER_ERROR => Status::internal(text),
        code => Status::from_kubelet(code, "", text),
    }
}
