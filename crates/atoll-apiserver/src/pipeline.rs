//! The way of every request: who asks, may they, what do they want, the answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::time::Instant;

use crate::admission::notes::Notes;
use crate::authz::Attributes;
use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::core::Core;
use crate::metrics::Labels;
use crate::negotiate;
use crate::query::Query;
use crate::render;
use crate::request::{self, RequestInfo, Target};
use crate::status::Status;
use crate::user::{Connection, UserInfo};
use crate::{compress, plain, proxy, stream, verbs};

/// The body of a request from whatever source.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// How large a body may be, and how long its client may take to send it.
struct BodyLimit {
    bytes_max: usize,
    timeout: Duration,
}

/// Upstream's limit for a request's body.
const BODY: BodyLimit = BodyLimit { bytes_max: 3 * 1024 * 1024, timeout: Duration::from_secs(30) };
/// Bytes beyond the limit that are still read, and dropped.
const DROPPED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// For those who have not said who they are yet: a signing request or two.
const STRANGER: BodyLimit = BodyLimit { bytes_max: 64 * 1024, timeout: Duration::from_secs(5) };
/// One request without a watch or stream takes at most this long; upstream's number.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Upstream answers these on every request; priority and fairness is not ours.
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
const FLOW_SCHEMA_UID: HeaderValue =
    HeaderValue::from_static("4a6f6c61-0000-4000-8000-000000000001");
const PRIORITY_LEVEL_UID: HeaderValue =
    HeaderValue::from_static("4a6f6c61-0000-4000-8000-000000000002");
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers one request. A user among its extensions has proven itself already.
pub(crate) async fn serve(core: Arc<Core>, request: Request<RequestBody>) -> Response<Body> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or(""));
    let target = request::target(&head.method, head.uri.path(), &query);
    let accept = negotiate::accept_or_json(&head.headers, &query);
    let audit_id = head.headers.get(AUDIT_ID).cloned();
    let labels = Labels::of(&core.registry, &head.method, &target);
    let gzip = compress::accepted(&head.headers);
    let mut response = match answer(core.clone(), head, query, target, body).await {
        Ok(response) => response,
        Err(status) => render::failure(accept, &status),
    };
    if gzip {
        response = compress::large(response).await;
    }
    finish(&core, &mut response, audit_id);
    core.metrics.observe(labels, response.status(), started.elapsed());
    response
}

async fn answer(
    core: Arc<Core>,
    head: Parts,
    query: Query,
    target: Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    if is_long(&target, &query) {
        let place = core.limits.admit_long()?;
        let response = permitted(core.clone(), head, query, target, body, true).await?;
        return Ok(response.map(|body| body.holding(place)));
    }
    let local = head.extensions.get::<UserInfo>().is_some();
    let _place = core.limits.admit(local)?;
    permitted(core.clone(), head, query, target, body, false).await
}

/// Answers a request that has a place.
async fn permitted(
    core: Arc<Core>,
    mut head: Parts,
    query: Query,
    target: Target,
    body: RequestBody,
    long: bool,
) -> Result<Response<Body>, Status> {
    let connection = head.extensions.remove::<Connection>().unwrap_or_default();
    let user = identify(&core, &mut head, &connection).await?;
    let routed = match &target {
        Target::Plain => plain::find(&head.method, head.uri.path()),
        Target::Resource(_) => None,
    };
    if !routed.is_some_and(|route| route.public) {
        authorize(&core, &user, &head, &query, &target)?;
    }
    match target {
        Target::Plain => {
            let public = routed.is_some_and(|route| route.public);
            let _stranger = if public { Some(core.limits.admit_stranger()?) } else { None };
            let body =
                if public { read(body, &STRANGER).await? } else { read(body, &BODY).await? };
            plain::serve(&core, &user, &connection, &head, &query, body, routed).await
        }
        Target::Resource(asked) => {
            let resource = resource(core.clone(), user, head, query, asked, body);
            if long {
                return Box::pin(resource).await;
            }
            tokio::time::timeout(REQUEST_TIMEOUT, Box::pin(resource))
                .await
                .unwrap_or_else(|_| Err(Status::timeout("request did not complete within 1m0s")))
        }
    }
}

/// Watches and streams last as long as the client likes and are not counted.
fn is_long(target: &Target, query: &Query) -> bool {
    let Target::Resource(asked) = target else { return false };
    asked.verb == "watch"
        || stream::is_stream(&asked.subresource)
        || proxy::is_proxy(&asked.subresource)
        || (asked.subresource == "log" && query.flag("follow"))
}

async fn identify(
    core: &Core,
    head: &mut Parts,
    connection: &Connection,
) -> Result<UserInfo, Status> {
    match head.extensions.remove::<UserInfo>() {
        Some(user) => Ok(user),
        None => core.authenticator.authenticate(head, connection).await,
    }
}

fn authorize(
    core: &Core,
    user: &UserInfo,
    head: &Parts,
    query: &Query,
    target: &Target,
) -> Result<(), Status> {
    let method = head.method.as_str().to_ascii_lowercase();
    let attributes = match target {
        Target::Plain => Attributes {
            verb: &method,
            resource_request: false,
            ..Attributes::empty(user, head.uri.path())
        },
        Target::Resource(asked) => attributes(user, head, query, asked),
    };
    attributes.require(core.authorizer.as_ref())
}

fn attributes<'a>(
    user: &'a UserInfo,
    head: &'a Parts,
    query: &'a Query,
    asked: &'a RequestInfo,
) -> Attributes<'a> {
    Attributes {
        user,
        verb: asked.verb,
        resource_request: true,
        group: &asked.group,
        version: &asked.version,
        resource: &asked.resource,
        subresource: &asked.subresource,
        namespace: &asked.namespace,
        name: &asked.name,
        path: head.uri.path(),
        field_selector: query.text("fieldSelector"),
        label_selector: query.text("labelSelector"),
    }
}

async fn resource(
    core: Arc<Core>,
    user: UserInfo,
    mut head: Parts,
    query: Query,
    asked: RequestInfo,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let Some(row) = core.registry.row(&asked.group, &asked.version, &asked.resource) else {
        return Ok(plain::unknown(&core, &asked));
    };
    if !asked.fits(&row) {
        return Err(Status::no_resource());
    }
    let part = match asked.subresource.as_str() {
        "" => None,
        name => Some(row.subresource(name).ok_or_else(Status::no_resource)?.clone()),
    };
    let upgrade = head.extensions.remove::<hyper::upgrade::OnUpgrade>();
    if part.as_ref().is_some_and(|part| proxy::is_proxy(part.name)) {
        let accept = negotiate::accept_or_json(&head.headers, &query);
        let call = call(&core, user, row, part, asked, query, &mut head, accept, Bytes::new());
        return proxy::serve(call, head, body, upgrade).await;
    }
    let Ok(accept) = negotiate::accept_for(&row, &head.headers, &query) else {
        return Ok(plain::not_acceptable());
    };
    if part.as_ref().is_some_and(|part| stream::is_stream(part.name) || part.name == "log") {
        let call = call(&core, user, row, part, asked, query, &mut head, accept, Bytes::new());
        let notes = call.notes.clone();
        let answer = stream::serve(call, head, upgrade).await;
        return Ok(noted(accept, answer, &notes));
    }
    let body = match head.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => read(body, &BODY).await?,
    };
    let call = call(&core, user, row, part, asked, query, &mut head, accept, body);
    let deprecation = call.row.deprecation.clone();
    let notes = call.notes.clone();
    let mut response = noted(accept, verbs::serve(call).await, &notes);
    if let Some(text) = deprecation {
        render::add_warnings(&mut response, &[text.into_owned()]);
    }
    Ok(response)
}

/// An answer, or a refusal, with the warnings of admission.
fn noted(
    accept: negotiate::Accept,
    answer: Result<Response<Body>, Status>,
    notes: &Notes,
) -> Response<Body> {
    let mut response = answer.unwrap_or_else(|status| render::failure(accept, &status));
    render::add_warnings(&mut response, &notes.take_warnings());
    response
}

#[allow(clippy::too_many_arguments, reason = "the fields of one struct, moved in one place")]
fn call(
    core: &Arc<Core>,
    user: UserInfo,
    row: atoll_api::kinds::Row,
    part: Option<atoll_api::kinds::Subresource>,
    asked: RequestInfo,
    query: Query,
    head: &mut Parts,
    accept: negotiate::Accept,
    body: Bytes,
) -> Call {
    let headers = std::mem::take(&mut head.headers);
    let (notes, options) = (Arc::default(), OnceLock::new());
    let core = core.clone();
    Call { core, user, row, part, info: asked, query, headers, accept, body, notes, options }
}

/// The whole body, if it is not too large and not too slow.
async fn read(body: RequestBody, limit: &BodyLimit) -> Result<Bytes, Status> {
    match tokio::time::timeout(limit.timeout, collect(body, limit.bytes_max)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(Status::body_too_large(limit.bytes_max)),
        Ok(Err(error)) => Err(Status::bad_request(format!("reading the body failed: {error}"))),
        Err(_) => Err(Status::timeout("the body did not arrive in time")),
    }
}

/// The bytes of a body, `None` when they are too many. Of those the rest is read and dropped
/// for a while: a client that is still sending may never read the answer otherwise.
async fn collect(mut body: RequestBody, bytes_max: usize) -> Result<Option<Bytes>, BoxError> {
    let mut whole = BytesMut::new();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame?.into_data() else { continue };
        read += chunk.len();
        if read <= bytes_max {
            whole.extend_from_slice(&chunk);
        } else if read - bytes_max <= DROPPED_BYTES_MAX {
            whole = BytesMut::new();
        } else {
            break;
        }
    }
    Ok((read <= bytes_max).then(|| whole.freeze()))
}

/// The headers that every answer carries.
fn finish(core: &Core, response: &mut Response<Body>, audit_id: Option<HeaderValue>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let now = core.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = response.headers_mut();
    let audit_id = audit_id
        .or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok())
        .unwrap_or(HeaderValue::from_static(""));
    headers.insert(AUDIT_ID, audit_id);
    headers.insert(FLOW_SCHEMA, FLOW_SCHEMA_UID);
    headers.insert(PRIORITY_LEVEL, PRIORITY_LEVEL_UID);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Ok(now) = HeaderValue::from_str(&now) {
        headers.insert(DATE, now);
    }
}
