//! The way of every request: who asks, may they, what do they want, the answer.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::admission::notes::Notes;
use crate::audit::Trail;
use crate::authz::{Attributes, Decision};
use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::core::Core;
use crate::course::{AUDIT_ID, Course};
use crate::fairness::Ticket;
use crate::metrics::Labels;
use crate::negotiate;
use crate::query::Query;
use crate::render;
use crate::request::{self, RequestInfo, Target};
use crate::status::Status;
use crate::user::{Connection, UserInfo};
use crate::{aggregate, compress, fairness, plain, proxy, stream, upgraded, verbs};

/// The body of a request from whatever source.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// How large a body may be, and how long its client may take to send it.
struct BodyLimit {
    bytes_max: usize,
    timeout: Duration,
}

impl BodyLimit {
    /// For whoever has said who they are.
    fn of(core: &Core) -> Self {
        Self { bytes_max: BODY_BYTES_MAX, timeout: core.config.patience.body }
    }
}

/// Upstream's limit for a request's body.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Bytes beyond the limit that are still read, and dropped.
const DROPPED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// For those who have not said who they are yet: a signing request or two.
const STRANGER: BodyLimit = BodyLimit { bytes_max: 64 * 1024, timeout: Duration::from_secs(5) };
/// One request without a watch or stream takes at most this long, or less where its client says
/// so; upstream's number.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Below this are no paths of upstream's.
const OWN_PATHS: &str = "/atoll/";

/// Upstream answers these on every request that it has sorted.
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// Answers one request. A user among its extensions has proven itself already.
pub(crate) async fn serve(core: Arc<Core>, request: Request<RequestBody>) -> Response<Body> {
    let started = Instant::now();
    let (mut head, body) = request.into_parts();
    let query = Query::parse(head.uri.query().unwrap_or(""));
    let target = request::target(&head.method, head.uri.path(), &query);
    let accept = negotiate::accept_or_json(&head.headers, &query);
    let labels = Labels::of(&core.registry, &head.method, &target);
    let gzip = compress::accepted(&head.headers);
    let course = Course::new(&head, core.now());
    head.extensions.insert(course.clone());
    let mut response = match permitted(core.clone(), head, query, target, body, started).await {
        Ok(response) => response,
        Err(status) => render::failure(accept, &status),
    };
    if let Some(trail) = course.trail().cloned() {
        let whole = response.body().whole().cloned();
        let answered = trail.answered(response.status(), response.headers(), whole);
        if let Some(watching) = answered.await {
            response = upgraded::hold(response, watching);
        }
    }
    if gzip {
        response = compress::large(response).await;
    }
    finish(&core, &mut response, &course);
    core.metrics.observe(labels, response.status(), started.elapsed());
    response
}

/// Finds out who asks, and answers in the time that there is.
async fn permitted(
    core: Arc<Core>,
    mut head: Parts,
    query: Query,
    target: Target,
    body: RequestBody,
    started: Instant,
) -> Result<Response<Body>, Status> {
    let connection = head.extensions.remove::<Connection>().unwrap_or_default();
    let local = head.extensions.get::<UserInfo>().is_some();
    let user = match identify(&core, &mut head, &connection).await {
        Ok(user) => user,
        Err(status) => {
            let nobody = UserInfo::default();
            follow(&core, &attributes(&nobody, &head, &query, &target), &head, &connection).await;
            return Err(status);
        }
    };
    let asked = attributes(&user, &head, &query, &target);
    follow(&core, &asked, &head, &connection).await;
    let patience = patience(&head, &query, &target)?;
    let answer = Box::pin(dispatch(core, user, connection, head, query, target, body, local));
    let Some(patience) = patience else { return answer.await };
    tokio::time::timeout_at(started + patience, answer).await.unwrap_or_else(|_| {
        let why = "request did not complete within requested timeout - context deadline exceeded";
        Err(Status::timeout(why))
    })
}

/// How long the answer may take to begin; `None` is as long as it likes.
fn patience(head: &Parts, query: &Query, target: &Target) -> Result<Option<Duration>, Status> {
    if is_long(target, query) {
        return Ok(None);
    }
    let asked = query.timeout()?;
    // A backup, or another key for everything, takes as long as there is data.
    if head.uri.path().starts_with(OWN_PATHS) {
        return Ok(asked);
    }
    Ok(Some(asked.map_or(REQUEST_TIMEOUT, |asked| asked.min(REQUEST_TIMEOUT))))
}

/// Answers a request when it has a place and a right.
#[allow(clippy::too_many_arguments, reason = "what came, in its parts")]
async fn dispatch(
    core: Arc<Core>,
    user: UserInfo,
    connection: Connection,
    mut head: Parts,
    query: Query,
    target: Target,
    body: RequestBody,
    local: bool,
) -> Result<Response<Body>, Status> {
    let asked = attributes(&user, &head, &query, &target);
    let place = admit(&core, &asked, &head, &query, &target, local).await?;
    let routed = match &target {
        Target::Plain => plain::find(&head.method, head.uri.path()),
        Target::Resource(_) => None,
    };
    let public = routed.is_some_and(|route| route.public);
    if !public {
        authorize(&core, &asked, &head)?;
    }
    if let Some(remote) = core.aggregate.route(&target, head.uri.path()) {
        let answer = Box::pin(aggregate::serve(&core, &remote, &user, &connection, head, body));
        let answer = answer.await;
        return Ok(match place {
            Place::Long(place) => upgraded::hold(answer, place.without_seats()),
            // What a connection has become is no work of this server's.
            place if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                drop(place);
                upgraded::hold(answer, core.limits.admit_long().ok())
            }
            place => upgraded::hold(answer, place),
        });
    }
    match target {
        Target::Plain => {
            let _stranger = if public { Some(core.limits.admit_stranger()?) } else { None };
            let limit = BodyLimit::of(&core);
            let body =
                if public { read(body, &STRANGER).await? } else { read(body, &limit).await? };
            let known = aggregate::take_known(&core, &mut head);
            let answer = plain::serve(&core, &user, &connection, &head, &query, body, routed);
            let answer = answer.await?;
            Ok(aggregate::merge(&core, &head, known, answer))
        }
        Target::Resource(asked) => {
            let resource = resource(core.clone(), user, head, query, asked, body);
            if let Place::Long(place) = place {
                let answer = Box::pin(resource).await?;
                // A watch has its seats for as long as it takes to begin.
                return Ok(upgraded::hold(answer, place.without_seats()));
            }
            Box::pin(resource).await
        }
    }
}

/// What a request holds while it is answered.
enum Place {
    /// For a watch or a stream.
    Long(LongPlace),
    Short {
        _seats: Option<Ticket>,
    },
    /// This process's own.
    Local {
        _place: OwnedSemaphorePermit,
    },
}

struct LongPlace {
    place: OwnedSemaphorePermit,
    _seats: Option<Ticket>,
}

impl LongPlace {
    fn without_seats(self) -> OwnedSemaphorePermit {
        self.place
    }
}

/// A place for one request, for which it may have to wait.
async fn admit(
    core: &Core,
    asked: &Attributes<'_>,
    head: &Parts,
    query: &Query,
    target: &Target,
    local: bool,
) -> Result<Place, Status> {
    let sorted = core.fairness.sort(asked);
    if let (Some(course), Some((sorted, _))) = (Course::of(head), &sorted) {
        course.keep_sorted(sorted.clone());
    }
    let long = is_long(target, query).then(|| core.limits.admit_long()).transpose()?;
    if local && long.is_none() {
        return Ok(Place::Local { _place: core.limits.admit_local()? });
    }
    // As upstream: a stream is no work of this server's once it runs.
    let counted = !local && (long.is_none() || asked.verb == "watch");
    let seats = match sorted {
        Some((_, queue)) if counted => {
            Some(core.fairness.admit(&queue, seats(core, asked, query)).await?)
        }
        _ => None,
    };
    Ok(match long {
        Some(place) => Place::Long(LongPlace { place, _seats: seats }),
        None => Place::Short { _seats: seats },
    })
}

/// How wide a request is: a list, and a watch that begins with one, as what it shows.
fn seats(core: &Core, asked: &Attributes<'_>, query: &Query) -> u32 {
    let lists = asked.verb == "list"
        || (asked.verb == "watch" && query.opt_flag("sendInitialEvents") == Some(true));
    if !lists || !asked.name.is_empty() {
        return 1;
    }
    let objects = core.registry.objects(asked.group, asked.resource);
    let objects = objects.map_or(0, |cache| cache.len());
    let limit = query.number("limit").ok().flatten().and_then(|limit| usize::try_from(limit).ok());
    let shown = limit.filter(|limit| *limit > 0).map_or(objects, |limit| limit.min(objects));
    fairness::list_seats(shown)
}

/// Watches and streams last as long as the client likes.
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

/// Begins the audit of a request, if there is one.
async fn follow(core: &Core, asked: &Attributes<'_>, head: &Parts, connection: &Connection) {
    let (Some(audit), Some(course)) = (&core.audit, Course::of(head)) else { return };
    let clock = &core.config.clock;
    if let Some(trail) = Trail::begin(audit, clock, asked, head, connection.remote, &course) {
        course.keep_trail(trail).received().await;
    }
}

fn authorize(core: &Core, asked: &Attributes<'_>, head: &Parts) -> Result<(), Status> {
    let decision = core.authorizer.authorize(asked);
    if core.audit.is_some()
        && let Some(course) = Course::of(head)
    {
        let (word, reason) = match &decision {
            Decision::Allow { reason } => ("allow", reason),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => ("forbid", reason),
        };
        course.notes().annotate("authorization.k8s.io/decision", word);
        course.notes().annotate("authorization.k8s.io/reason", reason);
    }
    match decision {
        Decision::Allow { .. } => Ok(()),
        Decision::Deny { reason } | Decision::NoOpinion { reason } => Err(asked.forbidden(&reason)),
    }
}

fn attributes<'a>(
    user: &'a UserInfo,
    head: &'a Parts,
    query: &'a Query,
    target: &'a Target,
) -> Attributes<'a> {
    let Target::Resource(asked) = target else {
        let verb = plain_verb(&head.method);
        return Attributes { verb, ..Attributes::empty(user, head.uri.path()) };
    };
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

/// The method in lower case.
fn plain_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        "CONNECT" => "connect",
        "TRACE" => "trace",
        _ => "unknown",
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
    let accept = match negotiate::accept_for(&row, &head.headers, &query) {
        Ok(accept) => accept,
        Err(refusal) => return refusal.map_or_else(|| Ok(plain::not_acceptable()), Err),
    };
    negotiate::check_shape(&row, asked.verb, &head.headers, &query)?;
    if part.as_ref().is_some_and(|part| stream::is_stream(part.name) || part.name == "log") {
        let call = call(&core, user, row, part, asked, query, &mut head, accept, Bytes::new());
        let notes = call.notes.clone();
        let answer = stream::serve(call, head, upgrade).await;
        return Ok(noted(accept, answer, &notes));
    }
    let body = match head.method {
        Method::GET | Method::HEAD => Bytes::new(),
        _ => read(body, &BodyLimit::of(&core)).await?,
    };
    if let Some(course) = Course::of(&head)
        && let Some(trail) = course.trail()
    {
        trail.body(&body, &head.headers);
    }
    let call = call(&core, user, row, part, asked, query, &mut head, accept, body);
    let deprecation = call.row.deprecation.clone();
    let notes = call.notes.clone();
    let mut response = noted(accept, verbs::serve(call, upgrade).await, &notes);
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
    let course = Course::of(head);
    let notes = course.map_or_else(Arc::default, |course| course.notes().clone());
    let options = OnceLock::new();
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
fn finish(core: &Core, response: &mut Response<Body>, course: &Course) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    let now = core.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let headers = response.headers_mut();
    headers.insert(AUDIT_ID, course.audit_id().clone());
    if let Some(sorted) = course.sorted() {
        headers.insert(FLOW_SCHEMA, sorted.schema_uid.clone());
        headers.insert(PRIORITY_LEVEL, sorted.level_uid.clone());
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Ok(now) = HeaderValue::from_str(&now) {
        headers.insert(DATE, now);
    }
}
