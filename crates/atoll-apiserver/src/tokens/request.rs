//! `serviceaccounts/token`: makes a token on request, and the public half for verifiers.

use atoll_api::access::Access as _;
use atoll_api::field::Path;
use atoll_api::kinds::{self, ResourceInfo};
use atoll_policy::node::node_of;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::objects::Objects;
use super::{Bound, Claims, Reference, account_user};
use crate::body::Body;
use crate::core::{Core, timestamp};
use crate::extension::{PlainRequest, VirtualCreate};
use crate::status::Status;
use crate::trust::Trust;
use crate::user::UserInfo;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 10 * 60;
const MAX_SECONDS: i64 = 1 << 32;
/// What pods' projected volumes ask for. Such tokens live longer than they say, upstream
/// too: clients that read the file once go on working, and are warned about by `warnafter`.
const PROJECTED_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Answers `POST …/serviceaccounts/{name}/token`.
pub fn create<'a>(
    core: &'a Core,
    request: VirtualCreate<'a>,
) -> BoxFuture<'a, Result<Value, Status>> {
    answer(core, request).boxed()
}

/// `GET /.well-known/openid-configuration`
pub fn discovery<'a>(
    core: &'a Core,
    _: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    let document = core.trust().map(|trust| trust.tokens.discovery());
    async move { document.map(|value| public_json(&value, "application/json")) }.boxed()
}

/// `GET /openid/v1/jwks`
pub fn key_set<'a>(
    core: &'a Core,
    _: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    let document = core.trust().map(|trust| trust.tokens.key_set());
    async move { document.map(|value| public_json(&value, "application/jwk-set+json")) }.boxed()
}

fn public_json(value: &Value, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(value.to_string())));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("public, max-age=3600"));
    response
}

async fn answer(core: &Core, request: VirtualCreate<'_>) -> Result<Value, Status> {
    let trust = core.trust()?;
    let row = kinds::find("", "v1", "serviceaccounts").ok_or_else(Status::no_resource)?;
    let VirtualCreate { user, namespace, name, mut object, .. } = request;
    check(name, &object)?;
    let objects = Objects { registry: &core.registry, storage: &core.storage };
    let account = objects
        .get("serviceaccounts", namespace, name)
        .await?
        .ok_or_else(|| Status::not_found(row, name))?;
    let reference =
        Reference { name: name.to_owned(), uid: account["metadata"].text("uid").to_owned() };
    let bound = bind(objects, namespace, reference, &object["spec"]).await?;
    check_node(row, user, &bound)?;
    let asked = object["spec"].int("expirationSeconds").unwrap_or(DEFAULT_SECONDS);
    let claims = claims(trust, bound, &object["spec"], asked, core.now());
    let token = trust.tokens.sign(&claims).map_err(Status::internal)?;
    let until = core
        .now()
        .checked_add(SignedDuration::from_secs(asked))
        .map_err(|error| Status::internal(format!("expirationSeconds: {error}")))?;
    object["spec"]["expirationSeconds"] = json!(asked);
    object["spec"]["audiences"] = json!(claims.aud);
    object["status"] = json!({"token": token, "expirationTimestamp": timestamp(until)});
    object["apiVersion"] = json!("authentication.k8s.io/v1");
    object["kind"] = json!("TokenRequest");
    let metadata = kinds::metadata::of(&mut object);
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(namespace));
    metadata.insert("creationTimestamp".to_owned(), json!(core.now_text()));
    Ok(object)
}

fn check(name: &str, object: &Value) -> Result<(), Status> {
    let stated = object["metadata"].text("name");
    if !stated.is_empty() && stated != name {
        return Err(Status::bad_request(format!(
            "the service account name in the metadata ({stated}) does not match the name on the \
             URL ({name})"
        )));
    }
    let path = Path::new("spec").child("expirationSeconds");
    let problem = match object["spec"].int("expirationSeconds") {
        Some(seconds) if seconds < MIN_SECONDS => {
            Some(path.invalid(json!(seconds), "may not specify a duration less than 10 minutes"))
        }
        Some(seconds) if seconds > MAX_SECONDS => Some(
            path.invalid(json!(seconds), "may not specify a duration larger than 2^32 seconds"),
        ),
        _ => None,
    };
    match problem {
        Some(error) => {
            Err(Status::invalid_kind("authentication.k8s.io", "TokenRequest", "", &[error]))
        }
        None => Ok(()),
    }
}

/// A node makes tokens for the pods that it runs, bound to them.
fn check_node(row: &ResourceInfo, user: &UserInfo, bound: &Bound) -> Result<(), Status> {
    let Some(node) = node_of(&user.name, &user.groups) else { return Ok(()) };
    let refuse = |why: &str| Err(Status::forbidden(row, &bound.serviceaccount.name, why));
    if bound.pod.is_none() {
        return refuse("node requested token not bound to a pod");
    }
    if bound.node.as_ref().is_none_or(|own| own.name != node) {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

/// Finds what the token is to be bound to.
async fn bind(
    objects: Objects<'_>,
    namespace: &str,
    serviceaccount: Reference,
    spec: &Value,
) -> Result<Bound, Status> {
    let account = serviceaccount.name.clone();
    let mut bound = Bound {
        namespace: namespace.to_owned(),
        node: None,
        pod: None,
        secret: None,
        serviceaccount,
        warnafter: None,
    };
    let asked = &spec["boundObjectRef"];
    if asked.is_null() {
        return Ok(bound);
    }
    let (kind, name) = (asked.text("kind"), asked.text("name"));
    let (resource, space) = match (asked.text("apiVersion"), kind) {
        ("v1" | "", "Pod") => ("pods", namespace),
        ("v1" | "", "Secret") => ("secrets", namespace),
        ("v1" | "", "Node") => ("nodes", ""),
        (version, _) => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount {account:?} to {kind} of {version:?}: only \
                 Pod, Secret and Node of v1 are known"
            )));
        }
    };
    let row = kinds::find("", "v1", resource).ok_or_else(Status::no_resource)?;
    let object =
        objects.get(resource, space, name).await?.ok_or_else(|| Status::not_found(row, name))?;
    let uid = object["metadata"].text("uid");
    let wanted = asked.text("uid");
    if !wanted.is_empty() && wanted != uid {
        return Err(Status::conflict(
            row,
            name,
            format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in \
                     record. The object might have been deleted and then recreated"
            ),
        ));
    }
    let reference = Reference { name: name.to_owned(), uid: uid.to_owned() };
    match resource {
        "pods" => {
            if object["spec"].text("serviceAccountName") != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with \
                     different serviceaccount name."
                )));
            }
            bound.node = node_of_pod(objects, &object).await?;
            bound.pod = Some(reference);
        }
        "secrets" => bound.secret = Some(reference),
        _ => bound.node = Some(reference),
    }
    Ok(bound)
}

/// The node that a pod runs on, for information.
async fn node_of_pod(objects: Objects<'_>, pod: &Value) -> Result<Option<Reference>, Status> {
    let name = pod["spec"].text("nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let uid = |node: Value| node["metadata"].text("uid").to_owned();
    let found = objects.get("nodes", "", name).await?;
    Ok(found.map(|node| Reference { name: name.to_owned(), uid: uid(node) }))
}

fn claims(trust: &Trust, mut bound: Bound, spec: &Value, asked: i64, now: Timestamp) -> Claims {
    let mut audiences: Vec<String> = spec
        .items("audiences")
        .iter()
        .filter_map(Value::as_str)
        .filter(|audience| !audience.is_empty())
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences.push(trust.tokens.issuer().to_owned());
    }
    let now = now.as_second();
    let mut exp = now.saturating_add(asked);
    let ours = audiences.iter().any(|audience| audience == trust.tokens.issuer());
    if asked == PROJECTED_SECONDS && bound.pod.is_some() && ours {
        bound.warnafter = Some(exp);
        exp = now.saturating_add(EXTENDED_SECONDS);
    }
    Claims {
        aud: audiences,
        exp,
        iat: now,
        iss: trust.tokens.issuer().to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        sub: account_user(&bound.namespace, &bound.serviceaccount.name),
        kubernetes: bound,
        nbf: now,
    }
}
