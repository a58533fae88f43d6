//! Several members in one process over a network in memory, for tests of this and other crates.
//!
//! The members are real: threads, files, everything but the connections between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::cluster::{Inbox, Member, MemberStart, OutgoingSnapshot, Start};
use crate::consensus::{Net, PeerMessage};
use crate::embedded::{EmbeddedStore, OpenError, StoreConfig};
use crate::kv::Error;
use crate::sync::lock;

mod diverge;

pub use diverge::diverge;

/// How long a cluster may take for what it does within seconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum TestError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] Error),
    #[error("it did not happen within {PATIENCE:?}: {0}")]
    Late(String),
}

/// Carries messages between the members that have joined it.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    inboxes: BTreeMap<u64, Arc<dyn Inbox>>,
    /// From, to.
    cut: BTreeSet<(u64, u64)>,
    /// Those who have greeted each other.
    greeted: BTreeSet<(u64, u64)>,
}

impl MemoryNetwork {
    /// The way of one member into this network.
    pub fn join(&self, inbox: Arc<dyn Inbox>) -> Box<dyn Net> {
        let id = inbox.hello(0).from;
        let mut inner = lock(&self.inner);
        inner.greeted.retain(|(from, to)| *from != id && *to != id);
        inner.inboxes.insert(id, inbox);
        Box::new(MemoryNet { id, network: self.clone() })
    }

    pub fn leave(&self, id: u64) {
        lock(&self.inner).inboxes.remove(&id);
    }

    /// Nothing goes from one to the other any more; the other direction stays.
    pub fn cut(&self, from: u64, to: u64) {
        lock(&self.inner).cut.insert((from, to));
    }

    /// Nothing goes to or from this member any more.
    pub fn isolate(&self, id: u64) {
        let mut inner = lock(&self.inner);
        let others: Vec<_> = inner.inboxes.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            inner.cut.extend([(id, other), (other, id)]);
        }
    }

    pub fn heal(&self) {
        lock(&self.inner).cut.clear();
    }

    /// The inbox to deliver to, if the way is open and both may talk to each other.
    fn way(&self, from: u64, to: u64) -> Option<Arc<dyn Inbox>> {
        let (sender, receiver, greeted) = {
            let inner = lock(&self.inner);
            if inner.cut.contains(&(from, to)) {
                return None;
            }
            let greeted = inner.greeted.contains(&(from, to));
            (inner.inboxes.get(&from)?.clone(), inner.inboxes.get(&to)?.clone(), greeted)
        };
        if !greeted {
            for (one, other, id) in [(&sender, &receiver, from), (&receiver, &sender, to)] {
                let called = if id == from { to } else { from };
                let mine = other.hello(id);
                if let Err(refusal) = other.check(&mine, &one.hello(called)) {
                    one.refused_by(called, &refusal);
                    return None;
                }
            }
            lock(&self.inner).greeted.insert((from, to));
        }
        Some(receiver)
    }
}

#[derive(Debug)]
struct MemoryNet {
    id: u64,
    network: MemoryNetwork,
}

impl Net for MemoryNet {
    fn send(&mut self, message: PeerMessage) {
        let way = self.network.way(self.id, message.to);
        let delivered = way.filter(|inbox| inbox.deliver(self.id, message.content));
        if let Some(inbox) = delivered {
            // Nobody else tells that nothing more comes for now.
            inbox.settle();
        } else {
            let own = lock(&self.network.inner).inboxes.get(&self.id).cloned();
            own.into_iter().for_each(|inbox| inbox.unreachable(message.to));
        }
    }

    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        let own = lock(&self.network.inner).inboxes.get(&self.id).cloned();
        let (network, from, to) = (self.network.clone(), self.id, snapshot.to);
        // It ends when the content does.
        drop(std::thread::spawn(move || {
            let arrived = carry(&network, from, snapshot).is_ok();
            own.into_iter().for_each(|inbox| inbox.snapshot_sent(to, arrived));
        }));
    }

    fn set_peers(&mut self, peers: &[Member]) {
        // A member that is gone from the list has to greet again.
        let known: BTreeSet<_> = peers.iter().map(|peer| peer.id).collect();
        let id = self.id;
        let gone = |(from, to): &(u64, u64)| {
            (*from == id && !known.contains(to)) || (*to == id && !known.contains(from))
        };
        lock(&self.network.inner).greeted.retain(|pair| !gone(pair));
    }
}

fn carry(network: &MemoryNetwork, from: u64, snapshot: OutgoingSnapshot) -> io::Result<()> {
    let unreachable = || io::Error::from(io::ErrorKind::NotConnected);
    let inbox = network.way(from, snapshot.to).ok_or_else(unreachable)?;
    let mut sink = inbox.begin_snapshot(from, snapshot.message)?;
    for chunk in snapshot.content {
        network.way(from, snapshot.to).ok_or_else(unreachable)?;
        sink.push(&chunk.map_err(io::Error::other)?)?;
    }
    sink.finish()
}

/// Members `m0`, `m1`, … in folders of these names.
#[derive(Debug)]
pub struct TestCluster {
    pub network: MemoryNetwork,
    dir: PathBuf,
    config: StoreConfig,
    stores: BTreeMap<usize, EmbeddedStore>,
    starts: BTreeMap<usize, MemberStart>,
    /// Of members that support less than this release.
    levels: BTreeMap<usize, u32>,
}

impl TestCluster {
    /// As many servers, all with a vote, when this returns.
    pub async fn start(dir: &Path, servers: usize) -> Result<Self, TestError> {
        Self::start_with(dir, servers, StoreConfig::default()).await
    }

    pub async fn start_with(
        dir: &Path,
        servers: usize,
        config: StoreConfig,
    ) -> Result<Self, TestError> {
        let mut cluster = Self {
            network: MemoryNetwork::default(),
            dir: dir.to_owned(),
            config,
            stores: BTreeMap::new(),
            starts: BTreeMap::new(),
            levels: BTreeMap::new(),
        };
        cluster.starts.insert(0, member_start(0, Start::New));
        cluster.open(0).await?;
        for number in 1..servers {
            cluster.add(number).await?;
        }
        Ok(cluster)
    }

    pub fn store(&self, number: usize) -> &EmbeddedStore {
        &self.stores[&number]
    }

    pub fn numbers(&self) -> Vec<usize> {
        self.stores.keys().copied().collect()
    }

    /// From its next start on a member supports formats up to this level.
    pub fn set_level_max(&mut self, number: usize, level_max: u32) {
        self.levels.insert(number, level_max);
    }

    /// Starts, or starts again, a member that has been added.
    pub async fn open(&mut self, number: usize) -> Result<(), TestError> {
        let mut config = self.config.clone();
        config.dir = self.dir.join(format!("m{number}"));
        config.level_max = self.levels.get(&number).copied().unwrap_or(config.level_max);
        config.release = format!("of level {}", config.level_max);
        let network = self.network.clone();
        let start = self.starts[&number].clone();
        let store =
            EmbeddedStore::open_member(config, start, move |inbox| network.join(inbox)).await?;
        self.stores.insert(number, store);
        Ok(())
    }

    /// A new member, with a vote when this returns.
    pub async fn add(&mut self, number: usize) -> Result<(), TestError> {
        let Some(first) = self.stores.values().next() else {
            return Err(TestError::Late("no member is there to ask".to_owned()));
        };
        let record = member_start(number, Start::New);
        let member = Member {
            name: record.name.clone(),
            peer_address: record.peer_address.clone(),
            ..Member::default()
        };
        let added = first.cluster().add_learner(member).await?;
        let members = first.cluster().membership().members;
        let cluster_id = first.cluster_id().to_owned();
        let start = Start::Join { cluster_id, member_id: added.id, members };
        self.starts.insert(number, MemberStart { start, ..record });
        self.open(number).await?;
        self.until("the new member has a vote", |cluster| {
            let all = cluster.stores.values().map(|store| store.cluster().membership());
            all.into_iter().all(|known| known.voters().any(|voter| voter.id == added.id))
        })
        .await
    }

    /// Puts a new member, with an empty folder, in the place of one that is down and whose folder
    /// cannot be used. It has a vote when this returns.
    pub async fn replace(&mut self, number: usize) -> Result<(), TestError> {
        let Some(other) = self.stores.values().next() else {
            return Err(TestError::Late("no member is there to ask".to_owned()));
        };
        let name = member_start(number, Start::New).name;
        let members = other.cluster().membership().members;
        if let Some(old) = members.iter().find(|one| one.name == name) {
            let deadline = Instant::now() + PATIENCE;
            // While the leader has not heard of the third it could not go on without this one.
            while let Err(error) = other.cluster().remove(old.id).await {
                if Instant::now() > deadline {
                    return Err(error.into());
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        let folder = self.dir.join(format!("m{number}"));
        std::fs::remove_dir_all(&folder)
            .map_err(|error| TestError::Late(format!("removing {}: {error}", folder.display())))?;
        self.add(number).await
    }

    /// Ends a member in order, so that a leader hands its place over.
    pub async fn stop(&mut self, number: usize) {
        if let Some(store) = self.stores.remove(&number) {
            store.shutdown().await;
            self.network.leave(store.member_id());
        }
    }

    /// Cuts a member off and ends it, so that nobody hears of it.
    pub async fn kill(&mut self, number: usize) {
        if let Some(store) = self.stores.remove(&number) {
            self.network.isolate(store.member_id());
            self.network.leave(store.member_id());
            store.shutdown().await;
            self.network.heal();
        }
    }

    /// The number of the one that leads, as all know that are there.
    pub async fn leader(&self) -> Result<usize, TestError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leaders: BTreeSet<_> =
                self.stores.values().map(|one| one.cluster().membership().leader).collect();
            let found =
                self.stores.iter().find(|(_, one)| leaders.contains(&Some(one.member_id())));
            if let (1, Some((number, _))) = (leaders.len(), found) {
                return Ok(*number);
            }
            if Instant::now() > deadline {
                return Err(TestError::Late(format!("a leader; known are {leaders:x?}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until something is so.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), TestError> {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() > deadline {
                let known: Vec<_> =
                    self.stores.values().map(|one| one.cluster().membership()).collect();
                return Err(TestError::Late(format!("{what}; {known:?}")));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

fn member_start(number: usize, start: Start) -> MemberStart {
    MemberStart {
        name: format!("m{number}"),
        peer_address: format!("m{number}:2380"),
        client_urls: vec![format!("https://m{number}:6443")],
        start,
    }
}
