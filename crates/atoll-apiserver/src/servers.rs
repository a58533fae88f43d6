//! This server among the others of its cluster: who is there, who may join, who leads.
//!
//! Every server answers the API. What only one may do at a time (judging silent nodes; running
//! controllers, which is the binary's part) does the one that leads.

pub(crate) mod check;
pub(crate) mod endpoints;
pub mod join;
pub(crate) mod members;
pub(crate) mod presence;
pub mod rejoin;
pub(crate) mod tokens;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use atoll_store::cluster::ClusterControl;
use atoll_store::kv::KvStore;
use serde_json::Value;
use tokio::sync::watch;

use crate::core::Core;
use crate::status::Status;

/// Files by their names.
pub type KeyFiles = BTreeMap<String, String>;
type ReadKeys = dyn Fn() -> Result<KeyFiles, String> + Send + Sync;
type Prepare = dyn Fn() -> Result<(), String> + Send + Sync;
type Examine = dyn Fn() -> Value + Send + Sync;

/// What a server has to know of itself and of the others.
#[derive(Clone)]
pub struct ServersConfig {
    /// The name of its node.
    pub name: String,
    /// 32 hexadecimal digits.
    pub cluster_id: String,
    /// This server's id in the store.
    pub member_id: u64,
    /// Who is a member; `None` when the store is somebody else's.
    pub cluster: Option<Arc<dyn ClusterControl>>,
    /// The applications' keyspace, beside the cluster's; `None` when the store is somebody else's.
    pub applications: Option<Arc<dyn KvStore>>,
    /// Whether this server acts for the cluster.
    pub leads: watch::Receiver<bool>,
    /// Reads what a joining server needs: authorities with their keys, the key of
    /// ServiceAccount tokens. Goes to nobody but a server with a token.
    pub read_keys: Arc<ReadKeys>,
    /// Makes this server reachable for others, before the first of them joins.
    pub prepare: Arc<Prepare>,
    /// What the binary knows of this server's health, for `atoll check`.
    pub examine: Arc<Examine>,
}

impl fmt::Debug for ServersConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServersConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A server that is there, as the others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Where its API is reached.
    pub address: SocketAddr,
}

/// What is known of the servers while this one runs.
#[derive(Debug)]
pub struct Servers {
    /// Those that are there, by name.
    pub(crate) live: watch::Sender<Arc<BTreeMap<String, Live>>>,
    /// Set while the others know of this one.
    pub(crate) session: watch::Sender<Option<i64>>,
    /// Servers that asked this one to become new members, by name.
    pub(crate) troubles: Mutex<BTreeMap<String, rejoin::Trouble>>,
}

impl Default for Servers {
    fn default() -> Self {
        Self {
            live: watch::Sender::new(Arc::default()),
            session: watch::Sender::new(None),
            troubles: Mutex::default(),
        }
    }
}

impl Servers {
    /// Changes whenever a server comes or goes.
    pub fn live(&self) -> watch::Receiver<Arc<BTreeMap<String, Live>>> {
        self.live.subscribe()
    }

    /// The session in which the others know that this server is there; a new one has a new id.
    pub fn session(&self) -> watch::Receiver<Option<i64>> {
        self.session.subscribe()
    }
}

impl Core {
    pub(crate) fn servers_config(&self) -> Result<&Arc<ServersConfig>, Status> {
        self.config
            .servers
            .as_ref()
            .ok_or_else(|| Status::lacking("this API server stands by itself"))
    }

    pub(crate) fn cluster(&self) -> Result<&Arc<dyn ClusterControl>, Status> {
        self.servers_config()?.cluster.as_ref().ok_or_else(|| {
            Status::bad_request(
                "the store of this cluster is not Atoll's own: its members are not managed here",
            )
        })
    }

    /// Whether there is no leader for this server: it is one of a minority, or an election is on.
    pub(crate) fn is_cut_off(&self) -> bool {
        let cluster = self.config.servers.as_ref().and_then(|servers| servers.cluster.as_ref());
        cluster.is_some_and(|cluster| cluster.membership().leader.is_none())
    }

    /// Where the API of each server is reached, whether or not it is there now.
    pub(crate) fn server_addresses(&self) -> Vec<String> {
        let members = self.config.servers.as_ref().and_then(|servers| servers.cluster.as_ref());
        let mut all: Vec<String> = match members {
            Some(cluster) => {
                let members = cluster.membership().members;
                members
                    .iter()
                    .flat_map(|member| member.client_urls.iter())
                    .filter_map(|url| host_port(url))
                    .collect()
            }
            None => {
                self.servers.live.borrow().values().map(|live| live.address.to_string()).collect()
            }
        };
        if all.is_empty() {
            all.push(self.config.advertise.to_string());
        }
        all.sort();
        all.dedup();
        all
    }
}

/// `10.0.0.1:6443` of `https://10.0.0.1:6443`.
fn host_port(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    Some(rest.trim_end_matches('/').to_owned())
}
