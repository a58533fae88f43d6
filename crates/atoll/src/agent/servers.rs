//! The servers that this node knows, and its connections to them.
//!
//! The node's client uses one server for as long as that answers pings, and goes on with another
//! at once: connections to a server that is given up are cut, so that whoever waits on one tries
//! again. What servers there are, the pings' answers say; the node keeps it in its folder, since
//! the one that it joined by may be gone when it starts again.

use super::api_client;
use crate::dev::folder::write_atomically;
use anyhow::{Context as _, Result};
use atoll_node::ServerClient;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use kube::Client;
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::IpAddr,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context as TaskContext, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::{info, warn};

/// Pings without an answer after which a server is given up for one that does answer. Where this
/// machine itself stands still none does.
const SILENT_MAX: u32 = 1;
/// Pings answered by a server that sees no majority of the servers: an election takes that long.
const CUT_OFF_MAX: u32 = 5;
/// A server that takes longer to accept a connection is not there, where there are others.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Servers that a node keeps in mind.
const KNOWN_MAX: usize = 32;
/// In the certificate of every server.
pub const SERVER_NAME: &str = "kubernetes";

/// Numbers of clients: the node's own, and one of the server alone.
const OWN: u64 = 0;
const OF_ITS_OWN: u64 = 1;

pub struct Servers {
    config: kube::Config,
    /// The server of `--join`, which always counts.
    first: String,
    file: PathBuf,
    state: Mutex<State>,
    clients: watch::Sender<Vec<ServerClient>>,
}

struct State {
    known: BTreeMap<String, Known>,
    /// Whom the node's client uses.
    current: String,
}

struct Known {
    /// Pings in a row that were not well answered.
    silent: u32,
    cut_off: u32,
    /// Cuts the connections that the node's client has to it now.
    gone: CancellationToken,
}

impl Known {
    /// One that has not answered yet proves nothing.
    fn new() -> Self {
        Self { silent: SILENT_MAX, cut_off: 0, gone: CancellationToken::new() }
    }

    fn is_well(&self) -> bool {
        self.silent < SILENT_MAX && self.cut_off < CUT_OFF_MAX
    }

    /// Whoever waits on a connection to it tries again. Later connections are others: it may be
    /// back, or all that is left.
    fn give_up(&mut self) {
        std::mem::take(&mut self.gone).cancel();
    }
}

impl Servers {
    /// `config` is of a client of the server `first`, which stands as `HOST:PORT`.
    pub fn new(mut config: kube::Config, first: &str, file: PathBuf) -> Arc<Self> {
        config.tls_server_name = Some(SERVER_NAME.to_owned());
        let text = std::fs::read(&file).unwrap_or_default();
        let mut addresses: Vec<String> = serde_json::from_slice(&text).unwrap_or_default();
        addresses.push(first.to_owned());
        let known = addresses.into_iter().map(|address| (address, Known::new())).collect();
        let state = State { known, current: first.to_owned() };
        Arc::new(Self {
            config,
            first: first.to_owned(),
            file,
            state: Mutex::new(state),
            clients: watch::Sender::new(Vec::new()),
        })
    }

    /// The node's client: by whichever server is there.
    pub fn client(self: &Arc<Self>) -> Result<Client> {
        let client = api_client::new(&self.config, Connector::Any(self.clone()))?;
        self.make_clients(&client)?;
        Ok(client)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One for each server. With only one server it is the node's own.
    fn make_clients(self: &Arc<Self>, own: &Client) -> Result<()> {
        let addresses: Vec<String> = self.state().known.keys().cloned().collect();
        if let [sole] = &addresses[..] {
            let own = ServerClient { address: sole.clone(), client: own.clone(), number: OWN };
            self.clients.send_replace(vec![own]);
            return Ok(());
        }
        let former = self.clients.borrow().clone();
        let mut clients = Vec::with_capacity(addresses.len());
        for address in addresses {
            let kept = former.iter().find(|one| one.address == address && one.number != OWN);
            let client = match kept {
                Some(kept) => kept.client.clone(),
                None => {
                    api_client::new(&self.config, Connector::One(self.clone(), address.clone()))?
                }
            };
            clients.push(ServerClient { address, client, number: OF_ITS_OWN });
        }
        self.clients.send_replace(clients);
        Ok(())
    }

    /// In which order servers are tried.
    fn order(&self) -> Vec<String> {
        let state = self.state();
        let rank = |address: &String, known: &Known| {
            (!known.is_well(), *address != state.current, known.silent)
        };
        let mut order: Vec<_> = state.known.iter().collect();
        order.sort_by_key(|(address, known)| rank(address, known));
        order.into_iter().map(|(address, _)| address.clone()).collect()
    }

    async fn connect_any(self: Arc<Self>) -> io::Result<Guarded> {
        let order = self.order();
        let mut last = io::Error::other("no server is known");
        for address in &order {
            let gone = self.state().known.get(address).map(|known| known.gone.clone());
            let Some(gone) = gone else { continue };
            match self.connect(address, order.len() > 1, gone).await {
                Ok(stream) => {
                    let mut state = self.state();
                    if state.current != *address {
                        info!(
                            server = address,
                            former = state.current,
                            "goes on with another server"
                        );
                        state.current.clone_from(address);
                    }
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect(
        &self,
        address: &str,
        has_others: bool,
        gone: CancellationToken,
    ) -> io::Result<Guarded> {
        let dialled = TcpStream::connect(address.to_owned());
        let stream = if has_others {
            tokio::time::timeout(CONNECT_MAX, dialled).await.map_err(|_elapsed| {
                io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer"))
            })??
        } else {
            dialled.await?
        };
        stream.set_nodelay(true)?;
        Ok(Guarded { stream: TokioIo::new(stream), gone: Box::pin(gone.cancelled_owned()) })
    }

    /// What one ping says of its server.
    fn note(&self, address: &str, answered: bool, cut_off: bool) {
        let mut state = self.state();
        let Some(known) = state.known.get_mut(address) else { return };
        known.silent = if answered { 0 } else { known.silent.saturating_add(1) };
        known.cut_off = if cut_off { known.cut_off.saturating_add(1) } else { 0 };
        let has_better = state.known.iter().any(|(one, known)| one != address && known.is_well());
        let Some(known) = state.known.get_mut(address) else { return };
        if !known.is_well() && has_better {
            known.give_up();
        }
    }

    /// The servers as one of them tells. Only the one that the node uses is believed: another may
    /// have been removed.
    fn learn(self: &Arc<Self>, from: &str, told: &[String], own: &Client) -> Result<()> {
        let first_is_here = is_loopback(&self.first);
        let told = told.iter().filter(|one| first_is_here || !is_loopback(one)).take(KNOWN_MAX);
        let mut wanted: Vec<String> = told.cloned().collect();
        wanted.push(self.first.clone());
        wanted.sort();
        wanted.dedup();
        {
            let mut state = self.state();
            if state.current != from || state.known.keys().eq(wanted.iter()) {
                return Ok(());
            }
            state.known.retain(|address, known| {
                let stays = wanted.contains(address);
                if !stays {
                    known.give_up();
                }
                stays
            });
            for address in &wanted {
                state.known.entry(address.clone()).or_insert_with(Known::new);
            }
        }
        info!(servers = wanted.join(","), "knows the servers");
        self.make_clients(own)?;
        let text = serde_json::to_vec(&wanted).context("writing the list of servers")?;
        write_atomically(&self.file, &text, 0o600)
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// [`Servers`] for the node, with the node's own client.
pub struct NodeServers {
    pub servers: Arc<Servers>,
    pub own: Client,
}

impl atoll_node::Servers for NodeServers {
    fn clients(&self) -> watch::Receiver<Vec<ServerClient>> {
        self.servers.clients.subscribe()
    }

    fn pinged(&self, server: &str, answer: Option<&serde_json::Value>) {
        let is_cut_off = answer.is_some_and(|answer| answer["cutOff"] == true);
        self.servers.note(server, answer.is_some(), is_cut_off);
        let Some(told) = answer.and_then(|answer| answer["servers"].as_array()) else { return };
        let told: Vec<String> =
            told.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect();
        if let Err(error) = self.servers.learn(server, &told, &self.own) {
            warn!("the list of servers was not kept: {error:#}");
        }
    }
}

/// Makes the connections of a client.
#[derive(Clone)]
pub enum Connector {
    /// To whichever server is there.
    Any(Arc<Servers>),
    /// To this one, for pings: they are what tells when a server that was given up is back.
    One(Arc<Servers>, String),
}

impl tower::Service<http::Uri> for Connector {
    type Response = Guarded;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Guarded>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        match self.clone() {
            Self::Any(servers) => Box::pin(servers.connect_any()),
            Self::One(servers, address) => {
                Box::pin(
                    async move { servers.connect(&address, true, CancellationToken::new()).await },
                )
            }
        }
    }
}

/// A connection that ends when its server is given up.
pub struct Guarded {
    stream: TokioIo<TcpStream>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Guarded {
    fn check(&mut self, cx: &mut TaskContext<'_>) -> io::Result<()> {
        match self.gone.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connection for Guarded {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(folder: &std::path::Path) -> Arc<Servers> {
        let config = kube::Config::new("https://10.0.0.1:6443".parse().unwrap());
        Servers::new(config, "10.0.0.1:6443", folder.join("servers.json"))
    }

    fn all(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[tokio::test]
    async fn a_silent_server_is_given_up_for_one_that_answers() {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let servers = servers(folder.path());
        let own = servers.client().unwrap();
        let (one, two) = ("10.0.0.1:6443", "10.0.0.2:6443");
        // Nobody else is there: it is not given up.
        for _ in 0..9 {
            servers.note(one, false, false);
        }
        assert!(!servers.state().known[one].gone.is_cancelled());
        servers.note(one, true, false);
        servers.learn(one, &all(&[one, two, "127.0.0.1:6443"]), &own).unwrap();
        assert_eq!(servers.order(), [one, two]);
        assert_eq!(servers.clients.borrow().len(), 2);

        let gone = servers.state().known[one].gone.clone();
        servers.note(one, false, false);
        assert!(!gone.is_cancelled(), "nobody knows yet whether the other is there");
        servers.note(one, true, false);
        servers.note(two, true, false);
        servers.note(one, false, false);
        assert!(gone.is_cancelled());
        assert_eq!(servers.order(), [two, one]);
        assert!(!servers.state().known[one].gone.is_cancelled(), "it may be back");
        servers.note(one, true, false);

        // An election cuts everybody off for a while.
        for _ in 0..4 {
            servers.note(one, true, true);
        }
        assert_eq!(servers.order(), [one, two]);
        servers.note(one, true, true);
        assert_eq!(servers.order(), [two, one]);
    }

    /// Pings go on with a server that was given up, or nobody would learn that it is back.
    #[tokio::test]
    async fn a_server_that_was_given_up_is_reached_when_it_is_back() {
        use hyper::rt::Write as _;
        use tower::Service as _;
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let servers = servers(folder.path());
        let own = servers.client().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = listener.local_addr().unwrap().to_string();
        let one = "10.0.0.1:6443";
        servers.learn(one, &all(&[one, &back]), &own).unwrap();
        servers.state().known.insert(back.clone(), Known::new());
        servers.note(one, true, false);
        servers.note(&back, true, false);
        let write = |mut stream: Guarded| async move {
            std::future::poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"ping")).await
        };
        let mut own = Connector::Any(servers.clone());
        servers.state().current.clone_from(&back);
        let before = own.call(http::Uri::default()).await.unwrap();
        servers.note(&back, false, false);
        assert!(write(before).await.is_err(), "whoever waits on it waits for nothing");
        let mut pings = Connector::One(servers.clone(), back.clone());
        let stream = pings.call(http::Uri::default()).await.unwrap();
        assert_eq!(write(stream).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn what_the_used_server_tells_is_kept() {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let first = servers(folder.path());
        let own = first.client().unwrap();
        first.learn("10.0.0.9:6443", &all(&["10.0.0.9:6443"]), &own).unwrap();
        assert_eq!(first.order(), ["10.0.0.1:6443"], "a stranger is not believed");
        first.learn("10.0.0.1:6443", &all(&["10.0.0.2:6443"]), &own).unwrap();
        let again = servers(folder.path());
        assert_eq!(again.order(), ["10.0.0.1:6443", "10.0.0.2:6443"]);
    }
}
