//! How a machine becomes a server: a server token against the keys of the cluster.
//!
//! The joining server has recognised this one by the hash in its token before it said anything,
//! so the answer goes to nobody else. The token is used up before anything is handed out.

use std::net::IpAddr;

use atoll_identity::TokenUse;
use atoll_store::cluster::{ClusterControl, Member};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use serde::{Deserialize, Serialize};

use super::{KeyFiles, tokens};
use crate::body::Body;
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::join::{answer, bearer, parse, refused};
use crate::query::Query;
use crate::status::Status;

/// Bytes of the text by which a joining server is known again.
const KEY_BYTES_MAX: usize = 128;

/// Parameter in which a joining server says what format level it supports. It is not in the body,
/// where the release that knew none would refuse it.
pub const FORMAT_LEVEL: &str = "formatLevel";

/// Body of `POST /atoll/v1/join-server`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JoinServerRequest {
    /// The name of its node.
    pub name: String,
    /// Random; the same when it comes again because it had no answer.
    pub key: String,
    /// `HOST:PORT` where the other servers reach it.
    pub peer_address: String,
    /// `https://HOST:PORT` where its API is reached.
    pub client_url: String,
}

/// A server as its peers know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberRecord {
    /// In hex.
    pub id: String,
    pub name: String,
    pub peer_address: String,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// Answer of `POST /atoll/v1/join-server`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinServerAnswer {
    pub cluster_id: String,
    /// In hex; none when the store is somebody else's.
    pub member_id: Option<String>,
    pub members: Vec<MemberRecord>,
    /// Files of the key folder.
    pub keys: KeyFiles,
    pub service_cidr: String,
    pub pod_cidr: String,
    pub node_prefix: u8,
}

impl From<&Member> for MemberRecord {
    fn from(member: &Member) -> Self {
        Self {
            id: format!("{:x}", member.id),
            name: member.name.clone(),
            peer_address: member.peer_address.clone(),
            client_urls: member.client_urls.clone(),
            is_learner: member.is_learner,
        }
    }
}

impl MemberRecord {
    /// `None` when the id is not one.
    pub fn to_member(&self) -> Option<Member> {
        let id = u64::from_str_radix(&self.id, 16).ok().filter(|id| *id != 0)?;
        Some(Member {
            id,
            name: self.name.clone(),
            peer_address: self.peer_address.clone(),
            client_urls: self.client_urls.clone(),
            is_learner: self.is_learner,
        })
    }
}

/// `POST /atoll/v1/join-server` with `Authorization: Bearer atoll1-server.…`
pub(crate) fn join<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    on_join(core, request).boxed()
}

async fn on_join(core: &Core, request: PlainRequest<'_>) -> Result<Response<Body>, Status> {
    let trust = core.trust()?;
    let servers = core.servers_config()?;
    let token = bearer(&request)?;
    token.check_cluster(trust.serving.certificate_der()).map_err(|error| refused(&error))?;
    token.check_use(TokenUse::Server).map_err(|error| refused(&error))?;
    // Before anything is said about the cluster to a machine that has no good token.
    let (_, record) = tokens::find(core, &token).await?;
    let wanted: JoinServerRequest = parse(&request.body)?;
    check(core, &wanted)?;
    if let Some(cluster) = &servers.cluster {
        let query = Query::parse(request.head.uri.query().unwrap_or(""));
        check_level(cluster.formats().level, query.number(FORMAT_LEVEL)?)?;
    }
    let again = record.used_by == Some((wanted.name.clone(), wanted.key.clone()));
    if let Some(cluster) = &servers.cluster {
        free(cluster.as_ref(), &wanted, again)?;
    }
    tokens::take(core, &token, &wanted.name, &wanted.key).await?;
    (servers.prepare)().map_err(Status::internal)?;
    let member = match &servers.cluster {
        Some(cluster) => Some(add(cluster.as_ref(), &wanted).await?),
        None => None,
    };
    // Only now: a rotation of the key of Secrets waits for members, and would not for this one before.
    let keys = (servers.read_keys)()
        .map_err(|why| Status::internal(format!("reading the keys of the cluster: {why}")))?;
    let members = servers.cluster.as_ref().map(|cluster| cluster.membership().members);
    tracing::info!(server = wanted.name, token = token.id, "server joined");
    answer(&JoinServerAnswer {
        cluster_id: servers.cluster_id.clone(),
        member_id: member.as_ref().map(|member| format!("{:x}", member.id)),
        members: with(members.unwrap_or_default(), member),
        keys,
        service_cidr: core.config.service_cidr.to_string(),
        pod_cidr: core.config.pod_cidr.to_string(),
        node_prefix: core.config.node_prefix,
    })
}

/// One that says nothing is of the release before levels were told: it supports the first.
fn check_level(cluster: u32, supported: Option<i64>) -> Result<(), Status> {
    let supported = supported.unwrap_or(1);
    if supported >= i64::from(cluster) {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "this cluster has the format level {cluster} and the joining server supports {supported}: \
         install the release there that the servers here run (`atoll member list` shows it)"
    )))
}

/// The members, the new one among them even where this server has not heard of it yet.
fn with(mut members: Vec<Member>, own: Option<Member>) -> Vec<MemberRecord> {
    if let Some(own) = own
        && !members.iter().any(|one| one.id == own.id)
    {
        members.push(own);
    }
    members.iter().map(MemberRecord::from).collect()
}

async fn add(cluster: &dyn ClusterControl, wanted: &JoinServerRequest) -> Result<Member, Status> {
    if let Some(member) = namesake(cluster, &wanted.name) {
        return Ok(member);
    }
    let member = Member {
        id: 0,
        name: wanted.name.clone(),
        peer_address: wanted.peer_address.clone(),
        client_urls: vec![wanted.client_url.clone()],
        is_learner: true,
    };
    cluster.add_learner(member).await.map_err(|error| Status::store(&error))
}

fn namesake(cluster: &dyn ClusterControl, name: &str) -> Option<Member> {
    cluster.membership().members.into_iter().find(|member| member.name == name)
}

/// Name and address must be nobody else's.
fn free(
    cluster: &dyn ClusterControl,
    wanted: &JoinServerRequest,
    again: bool,
) -> Result<(), Status> {
    let taken = namesake(cluster, &wanted.name);
    if taken.is_some() && !again {
        return Err(Status::bad_request(format!(
            "a server called {0:?} is part of the cluster already; choose another with --name, or \
             remove that one first (atoll member remove {0})",
            wanted.name
        )));
    }
    let members = cluster.membership().members;
    check_free(&members, &wanted.name, &wanted.peer_address)?;
    for one in members.iter().filter(|one| one.name != wanted.name) {
        if is_loopback(&one.peer_address) {
            return Err(Status::bad_request(format!(
                "the server {:?} says that its peers reach it at {}, which only itself can; start \
                 it again with --advertise or --peer-advertise ADDRESS",
                one.name, one.peer_address
            )));
        }
    }
    Ok(())
}

/// A peer address has one server.
fn check_free(members: &[Member], name: &str, peer_address: &str) -> Result<(), Status> {
    let other = members.iter().find(|one| one.peer_address == peer_address && one.name != name);
    let Some(other) = other else { return Ok(()) };
    Err(Status::bad_request(format!(
        "the peer address {peer_address} belongs to the server {:?}; give this one its own with \
         --peer-advertise",
        other.name
    )))
}

/// Name and addresses of a server that comes back as another member.
pub(super) fn check_place(
    core: &Core,
    members: &[Member],
    name: &str,
    peer_address: &str,
    client_url: &str,
) -> Result<(), Status> {
    check_free(members, name, peer_address)?;
    check_addresses(core, peer_address, client_url)
}

fn check(core: &Core, wanted: &JoinServerRequest) -> Result<(), Status> {
    let name = &wanted.name;
    if let Some(problem) = atoll_api::names::dns1123_subdomain(name).first() {
        return Err(Status::bad_request(format!("{name:?} cannot be a server's name: {problem}")));
    }
    if wanted.key.is_empty() || wanted.key.len() > KEY_BYTES_MAX {
        return Err(Status::bad_request("the key of the joining server is empty or too long"));
    }
    check_addresses(core, &wanted.peer_address, &wanted.client_url)
}

fn check_addresses(core: &Core, peer_address: &str, client_url: &str) -> Result<(), Status> {
    if is_loopback(peer_address) || port(peer_address).is_none() {
        return Err(Status::bad_request(format!(
            "other servers cannot reach this one at {peer_address:?}; name an address with \
             --peer-advertise"
        )));
    }
    let own = core.config.advertise.port();
    let address = client_url.strip_prefix("https://").unwrap_or_default();
    match port(address) {
        Some(port) if port == own => Ok(()),
        Some(port) => Err(Status::bad_request(format!(
            "the servers of a cluster have their API on one port: here it is {own}, not {port}; \
             choose it with --listen"
        ))),
        None => Err(Status::bad_request(format!(
            "{client_url:?} is not a URL such as https://10.0.0.2:{own}"
        ))),
    }
}

fn port(address: &str) -> Option<u16> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse().ok().filter(|port| *port != 0 && !host.is_empty())
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// For the fuzzer: the body of a joining server is read, or refused.
pub(crate) fn fuzz_request(body: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<JoinServerRequest>(body) {
        let again = serde_json::to_vec(&request).map(|text| text.len());
        assert!(again.is_ok());
        port(&request.peer_address);
        is_loopback(&request.peer_address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_a_release_that_is_too_old_does_not_join() {
        assert!(check_level(1, None).is_ok() && check_level(2, Some(2)).is_ok());
        for supported in [None, Some(1)] {
            let refused = check_level(2, supported).unwrap_err().message().to_owned();
            assert!(refused.contains("level 2 and the joining server supports 1"), "{refused}");
        }
    }

    #[test]
    fn addresses_that_only_the_machine_itself_reaches_are_told() {
        for own in ["127.0.0.1:2380", "localhost:2380", "[::1]:2380", "0.0.0.0:2380"] {
            assert!(is_loopback(own), "{own}");
        }
        assert!(!is_loopback("10.0.0.1:2380") && !is_loopback("node-2:2380"));
        assert_eq!(port("10.0.0.1:2380"), Some(2_380));
        assert_eq!(port("10.0.0.1"), None);
        assert_eq!(port(":2380"), None);
    }
}
