//! The network of one node: a thread that owns its state, and the handle to it.
//!
//! The thread stands in the node's network namespace and makes one change after the
//! other; each takes well under a millisecond to a few.

mod state;
mod upkeep;

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::ipam::{HostPort, Lease};
use crate::netns;
use crate::service::{ServiceChange, ServicePort};
use crate::settings::{Config, Peer};
use state::State;

/// Calls that wait for the thread; callers beyond it wait to be queued.
const CALLS_MAX: usize = 64;

type Call = Box<dyn FnOnce(&mut State) + Send>;

/// A handle; clones share the one network. Dropping it changes nothing in the system:
/// sandboxes keep their network while the agent is away.
#[derive(Debug, Clone)]
pub struct NodeNetwork {
    calls: mpsc::Sender<Call>,
}

impl NodeNetwork {
    /// Makes the calling process's network namespace a node, or finds it one.
    ///
    /// Services stay as a former agent left them until [`Self::sync_services`].
    pub async fn setup(config: Config) -> Result<Self, Error> {
        Self::start(config, None).await
    }

    /// [`Self::setup`] for a node in a namespace other than the caller's.
    pub async fn setup_in(netns: &Path, config: Config) -> Result<Self, Error> {
        Self::start(config, Some(netns.to_owned())).await
    }

    async fn start(config: Config, netns: Option<PathBuf>) -> Result<Self, Error> {
        let (calls, mut queue) = mpsc::channel::<Call>(CALLS_MAX);
        let (ready, outcome) = oneshot::channel();
        let run = move || {
            let made = match netns.as_deref().map(netns::enter) {
                Some(Err(source)) => Err(Error::Namespace {
                    what: format!("becoming node {}", config.node_id),
                    source: netns::NetnsError::Enter {
                        path: netns.clone().unwrap_or_default(),
                        source,
                    },
                }),
                _ => State::setup(config),
            };
            match made {
                Ok(mut state) => {
                    if ready.send(Ok(())).is_err() {
                        return;
                    }
                    while let Some(call) = queue.blocking_recv() {
                        call(&mut state);
                    }
                }
                // Whoever asked has gone; there is nobody to tell.
                Err(error) => ready.send(Err(error)).unwrap_or_default(),
            }
        };
        std::thread::Builder::new().name("network".to_owned()).spawn(run).map_err(|source| {
            Error::File { action: "starting a thread for", path: "the network".into(), source }
        })?;
        outcome.await.unwrap_or(Err(Error::Cancelled))?;
        Ok(Self { calls })
    }

    /// Gives the sandbox's namespace its link, address and host ports: the same address
    /// when it has one already.
    pub async fn attach(
        &self,
        uid: &str,
        netns: &Path,
        host_ports: &[HostPort],
    ) -> Result<Lease, Error> {
        let (uid, netns, ports) = (uid.to_owned(), netns.to_owned(), host_ports.to_vec());
        self.call(move |state| state.attach(&uid, &netns, &ports)).await
    }

    /// Takes all of it back. A sandbox that is not attached is no error.
    pub async fn detach(&self, uid: &str) -> Result<(), Error> {
        let uid = uid.to_owned();
        self.call(move |state| state.detach(&uid)).await
    }

    /// All leases, in no order.
    pub async fn leases(&self) -> Result<Vec<Lease>, Error> {
        self.call(|state| Ok(state.leases())).await
    }

    /// Detaches every sandbox that is not `known`, and removes links without a lease.
    /// Returns the uids that were detached.
    pub async fn sweep(&self, known: HashSet<String>) -> Result<Vec<String>, Error> {
        self.call(move |state| state.sweep(&known)).await
    }

    /// Routes to exactly these nodes' sandboxes. The node itself may be among them. A range
    /// that is not in the cluster's, or that another node has, gets no route.
    pub async fn sync_peers(&self, peers: Vec<Peer>) -> Result<(), Error> {
        self.call(move |state| state.sync_peers(peers)).await
    }

    /// Serves exactly these ports. Call it once the lists are complete: the first call
    /// replaces what a former agent left, in one transaction; later ones apply the
    /// difference.
    pub async fn sync_services(&self, ports: Vec<ServicePort>) -> Result<(), Error> {
        self.call(move |state| state.sync_services(ports)).await
    }

    /// Applies changes in one transaction. Before the first [`Self::sync_services`] they
    /// are an error, because what is in the tables is not known.
    pub async fn apply(&self, changes: Vec<ServiceChange>) -> Result<(), Error> {
        self.call(move |state| state.apply(changes)).await
    }

    /// Puts back rules and routes that others took away, such as by `nft flush ruleset`, and
    /// returns what was missing. Nothing tells of that, so it is to be called now and then.
    pub async fn repair(&self) -> Result<Vec<&'static str>, Error> {
        self.call(State::repair).await
    }

    /// Ends the tracked flows of endpoints that are known to be dead (their node is
    /// lost): clients get an error instead of silence. Returns how many.
    pub async fn forget_flows(&self, addresses: Vec<Ipv4Addr>) -> Result<usize, Error> {
        self.call(move |state| state.forget_flows(&addresses.into_iter().collect())).await
    }

    /// Removes links, routes, rules and leases: everything but what was there before.
    pub async fn teardown(&self) -> Result<(), Error> {
        self.call(State::teardown).await
    }

    async fn call<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut State) -> Result<T, Error> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let call: Call = Box::new(move |state| {
            // A caller that no longer waits has no use for the outcome.
            drop(done.send(work(state)));
        });
        if self.calls.send(call).await.is_err() {
            return Err(Error::Cancelled);
        }
        outcome.await.unwrap_or(Err(Error::Cancelled))
    }
}
