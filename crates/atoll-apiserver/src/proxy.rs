//! pods/proxy, services/proxy and nodes/proxy: a request for what listens there, passed on.
//!
//! The server finds the address and carries bytes; what proved who the client is stays here.
//! Links in pages and redirects are changed on their way back, so that they lead through here.

mod headers;
mod html;
mod location;
mod page;
mod path;

use http::header::{CONTENT_TYPE, HOST, HeaderValue, LOCATION, UPGRADE};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde_json::json;

use crate::admission::{self, Operation};
use crate::body::Body;
use crate::call::Call;
use crate::pipeline::RequestBody;
use crate::status::Status;
use crate::{stream, upgraded};
use location::Location;
use path::Way;

/// Parts of an object that lead to what it serves itself.
pub(crate) fn is_proxy(subresource: &str) -> bool {
    subresource == "proxy"
}

/// Passes a request on. The headers are in the call, the rest of the head beside it.
pub(crate) async fn serve(
    call: Call,
    head: Parts,
    body: RequestBody,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let known = call.part.as_ref().is_some_and(|part| part.verbs.contains(&call.info.verb));
    if !known && head.method != Method::OPTIONS {
        return Err(Status::method_not_allowed());
    }
    let rest = path::rest(&call.info.rest, head.uri.path());
    admit(&call, &rest).await?;
    let location = Location::find(&call).await?;
    let upgrades = call.headers.contains_key(UPGRADE);
    if rest.is_empty() && !upgrades && matches!(head.method, Method::GET | Method::HEAD) {
        return path::to_slash(&head.uri);
    }
    if upgrades {
        return tunnel(&call, &head, &location, &rest, upgrade).await;
    }
    let request = request(&call, &head, &location, &rest, body)?;
    let answer = send(&call, &location, request).await?;
    Ok(passed_on(answer, &way(&call, &head, &location)))
}

fn way(call: &Call, head: &Parts, location: &Location) -> Way {
    let asked = call.headers.get(HOST).and_then(|value| value.to_str().ok());
    // HTTP/2 has the name in the URL.
    let asked = asked.or_else(|| head.uri.authority().map(|own| own.as_str()));
    Way {
        authority: location.authority.clone(),
        asked: asked.unwrap_or_default().to_owned(),
        prefix: path::prefix(&call.info),
    }
}

/// For the fuzzer: a page that comes by.
pub(crate) fn fuzz_page(page: &[u8]) {
    html::fuzz(page);
}

async fn admit(call: &Call, rest: &str) -> Result<(), Status> {
    let kind = call.part.as_ref().map_or("", |part| &*part.kind);
    let mut options = json!({"kind": kind, "apiVersion": "v1", "path": rest});
    let request = call.admission(Operation::Connect, call.name(), None, false);
    admission::admit(&call.core, &request, &mut options).await?;
    admission::validate(&call.core, &request, &options).await
}

fn request<B>(
    call: &Call,
    head: &Parts,
    location: &Location,
    rest: &str,
    body: B,
) -> Result<Request<B>, Status> {
    let mut target = path::encode(if rest.is_empty() { "/" } else { rest });
    if let Some(query) = head.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut request = Request::builder()
        .method(head.method.clone())
        .uri(target)
        .body(body)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    *request.headers_mut() = headers::forwarded(&call.headers, &head.uri, &location.authority);
    let uri = format!("{}{}", path::prefix(&call.info), path::encode(rest));
    if let Ok(uri) = HeaderValue::from_str(&uri) {
        request.headers_mut().insert("x-forwarded-uri", uri);
    }
    Ok(request)
}

async fn send<B>(
    call: &Call,
    location: &Location,
    request: Request<B>,
) -> Result<Response<Incoming>, Status>
where
    B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<crate::body::BoxError>,
{
    let unreached =
        |why: String| Status::unavailable(format!("error trying to reach service: {why}"));
    let stream = location.connect(call).await.map_err(&unreached)?;
    stream::ask(call, stream, request).await.map_err(|why| unreached(why.to_string()))
}

/// An answer as the client gets it.
fn passed_on(answer: Response<Incoming>, way: &Way) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    crate::hop_by_hop::strip(&mut head.headers);
    if head.status == StatusCode::NO_CONTENT {
        head.headers.remove(CONTENT_TYPE);
    }
    let target = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let target = target.map(|target| way.relocate(target).map(|own| HeaderValue::from_str(&own)));
    let body = match target {
        Some(own) => {
            if let Some(Ok(value)) = own {
                head.headers.insert(LOCATION, value);
            }
            Body::wrap(body)
        }
        None => page::passed_on(&mut head, body, way),
    };
    Response::from_parts(head, body)
}

/// A connection that both sides want to speak something else on.
async fn tunnel(
    call: &Call,
    head: &Parts,
    location: &Location,
    rest: &str,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let client = upgrade.ok_or_else(|| {
        Status::bad_request("unable to upgrade: missing upgrade headers in request")
    })?;
    let body = http_body_util::Empty::<bytes::Bytes>::new();
    let mut request = request(call, head, location, rest, body)?;
    headers::keep_upgrade(&call.headers, request.headers_mut());
    let mut answer = send(call, location, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(passed_on(answer, &way(call, head, location)));
    }
    let server = hyper::upgrade::on(&mut answer);
    let (response, upgraded) = upgraded::switching(answer.headers().clone());
    stream::join(&call.core, client, server, upgraded);
    Ok(response)
}
