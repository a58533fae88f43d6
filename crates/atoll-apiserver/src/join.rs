//! How a machine becomes a node: a join token against certificates.
//!
//! The token is used up before anything is issued, in one transaction, so that two machines
//! with the same token cannot both get in. What is stored of a token is a hash.

mod records;

use std::net::IpAddr;

use atoll_api::access::Access as _;
use atoll_api::kinds;
use atoll_identity::{
    IdentityError, JoinToken, SigningRequest, TokenError, TokenUse, node_client_leaf,
    node_serving_leaf,
};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::body::Body;
use crate::core::{Core, timestamp};
use crate::extension::PlainRequest;
use crate::status::Status;

/// A token that nobody uses does not stay good for long.
const TOKEN_LIFE_SECONDS: i64 = 24 * 3600;
const TOKEN_LIFE_SECONDS_MAX: i64 = 30 * 24 * 3600;
/// Addresses that one node may have its certificate made for.
const ADDRESSES_MAX: usize = 16;

/// Body of `POST /atoll/v1/join`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinRequest {
    /// The node's name; it becomes `system:node:<node>`.
    pub node: String,
    /// Signing request (PEM) for the certificate with which the node calls the API.
    pub client_request: String,
    /// The same for its kubelet API; the client's key serves both when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_request: Option<String>,
    /// Where the kubelet API is reached. The address the request comes from is always one.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// Answer of `POST /atoll/v1/join`, all PEM.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinAnswer {
    pub client_certificate: String,
    pub serving_certificate: String,
    /// Whom the node trusts as API server.
    pub serving_authority: String,
    /// Whose certificates the node's kubelet API lets in.
    pub kubelet_authority: String,
}

/// Body of `POST /atoll/v1/join-tokens`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct TokenRequest {
    ttl_seconds: Option<i64>,
}

/// `POST /atoll/v1/join` with `Authorization: Bearer atoll1.…`
pub fn join<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    on_join(core, request).boxed()
}

/// `POST /atoll/v1/join-tokens`: makes a token, for those who may post there.
pub fn create_token<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    on_create_token(core, request).boxed()
}

async fn on_create_token(core: &Core, request: PlainRequest<'_>) -> Result<Response<Body>, Status> {
    let (token, expires_at) = issue_token(core, life(&request.body)?).await?;
    answer(&serde_json::json!({"token": token, "expiresAt": expires_at}))
}

/// How long the token shall be good that a request asks for.
pub(crate) fn life(body: &Bytes) -> Result<SignedDuration, Status> {
    let wanted: TokenRequest = if body.is_empty() { TokenRequest::default() } else { parse(body)? };
    let seconds = wanted.ttl_seconds.unwrap_or(TOKEN_LIFE_SECONDS);
    if !(1..=TOKEN_LIFE_SECONDS_MAX).contains(&seconds) {
        return Err(Status::bad_request(format!(
            "ttlSeconds must be between 1 and {TOKEN_LIFE_SECONDS_MAX}, not {seconds}"
        )));
    }
    Ok(SignedDuration::from_secs(seconds))
}

/// Makes and records a join token; returns its text and when it expires.
pub async fn issue_token(core: &Core, life: SignedDuration) -> Result<(String, String), Status> {
    let trust = core.trust()?;
    let expires_at = core
        .now()
        .checked_add(life)
        .map_err(|error| Status::internal(format!("the life of the token: {error}")))?;
    let (token, record) =
        JoinToken::create(trust.serving.certificate_der(), expires_at).map_err(Status::internal)?;
    records::sweep(core).await?;
    records::add(core, &record).await?;
    Ok((token.reveal(), timestamp(expires_at)))
}

async fn on_join(core: &Core, request: PlainRequest<'_>) -> Result<Response<Body>, Status> {
    let trust = core.trust()?;
    let token = bearer(&request)?;
    token.check_cluster(trust.serving.certificate_der()).map_err(|error| refused(&error))?;
    token.check_use(TokenUse::Agent).map_err(|error| refused(&error))?;
    let wanted: JoinRequest = parse(&request.body)?;
    let addresses = check(core, &wanted, &request)?;
    let client = signing_request(&wanted.client_request)?;
    let serving = wanted.serving_request.as_deref().map(signing_request).transpose()?;

    let key = client.key_fingerprint();
    if node_exists(core, &wanted.node).await?
        && !records::was_taken_by(core, &token, &wanted.node, &key).await?
    {
        return Err(Status::bad_request(format!(
            "a node called {0:?} is part of the cluster already; choose another name, or delete \
             that node first (kubectl delete node {0})",
            wanted.node
        )));
    }
    records::take(core, &token, &wanted.node, &key).await?;

    let now = core.now();
    let issue = |error: IdentityError| Status::internal(error);
    let certificate =
        trust.client.issue_for(&client, &node_client_leaf(&wanted.node), now).map_err(issue)?;
    let leaf = node_serving_leaf(&wanted.node, &[&wanted.node], &addresses);
    let kubelet =
        trust.kubelet.issue_for(serving.as_ref().unwrap_or(&client), &leaf, now).map_err(issue)?;
    tracing::info!(node = wanted.node, token = token.id, "node joined");
    answer(&JoinAnswer {
        client_certificate: certificate.certificate_pem,
        serving_certificate: kubelet.certificate_pem,
        serving_authority: trust.serving.certificate_pem().to_owned(),
        kubelet_authority: trust.kubelet.certificate_pem().to_owned(),
    })
}

/// As of every acknowledged write: the cache may lag behind a node that just registered.
async fn node_exists(core: &Core, name: &str) -> Result<bool, Status> {
    let row = kinds::find("", "v1", "nodes").ok_or_else(Status::no_resource)?;
    Ok(core.storage.get(row, "", name).await?.is_some())
}

pub(crate) fn bearer(request: &PlainRequest<'_>) -> Result<JoinToken, Status> {
    let header = request.head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let text = header.and_then(|text| text.split_once(' ')).map_or("", |(_, token)| token);
    JoinToken::parse(text).map_err(|error| refused(&error))
}

/// A refusal of a token says why: whoever joins has to know what to do.
pub(crate) fn refused(error: &TokenError) -> Status {
    let message = format!("joining the cluster is refused: {error}");
    Status::forbidden_text("", "", "", message)
}

fn signing_request(pem: &str) -> Result<SigningRequest, Status> {
    SigningRequest::from_pem(pem).map_err(|error| {
        let source = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Status::bad_request(format!("{error}{}", source.unwrap_or_default()))
    })
}

/// Name and addresses must be free; returns the addresses for the certificate.
fn check(
    core: &Core,
    wanted: &JoinRequest,
    request: &PlainRequest<'_>,
) -> Result<Vec<IpAddr>, Status> {
    let name = &wanted.node;
    let problems = atoll_api::names::dns1123_subdomain(name);
    if let Some(problem) = problems.first() {
        return Err(Status::bad_request(format!("{name:?} cannot be a node's name: {problem}")));
    }
    let mut addresses = wanted.addresses.clone();
    if let Some(remote) = request.connection.remote
        && !addresses.contains(&remote.ip())
    {
        addresses.push(remote.ip());
    }
    if addresses.len() > ADDRESSES_MAX {
        return Err(Status::bad_request(format!("a node has at most {ADDRESSES_MAX} addresses")));
    }
    let row = kinds::find("", "v1", "nodes").ok_or_else(Status::no_resource)?;
    let Some(cache) = core.registry.cache(row) else { return Ok(addresses) };
    for entry in cache.list("") {
        if entry.name() == name {
            continue;
        }
        let node = entry.object(row)?;
        let taken = node["status"]
            .items("addresses")
            .iter()
            .filter_map(|address| address.text("address").parse::<IpAddr>().ok())
            .find(|ip| addresses.contains(ip));
        if let Some(ip) = taken {
            return Err(Status::bad_request(format!(
                "the address {ip} belongs to node {:?}; delete that node first if it is no more",
                entry.name()
            )));
        }
    }
    Ok(addresses)
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Status> {
    serde_json::from_slice(body)
        .map_err(|error| Status::bad_request(format!("the body is not as expected: {error}")))
}

pub(crate) fn answer<T: Serialize>(value: &T) -> Result<Response<Body>, Status> {
    let text = serde_json::to_vec(value).map_err(Status::internal)?;
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
