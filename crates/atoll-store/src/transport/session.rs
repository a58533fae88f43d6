//! One store's time on the transport: its peers, and who is connected to it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::greeting::Purpose;
use super::peer::Peer;
use super::{PeerStatus, Shared};
use crate::cluster::Inbox;
use crate::sync::lock;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    /// At most one for each member and purpose: a newer one takes the place of the older, which
    /// is most likely dead and does not know it yet.
    incoming: Mutex<BTreeMap<(u64, Purpose), Arc<Incoming>>>,
}

/// A connection that a member dialled.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) from: u64,
    purpose: Purpose,
    since: Instant,
    /// Cancelled when another connection takes its place.
    pub(super) replaced: CancellationToken,
    pub(super) bytes: AtomicU64,
    pub(super) messages: AtomicU64,
    /// Messages that the store had no room for.
    pub(super) refused: AtomicU64,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, inbox: Arc<dyn Inbox>) -> Self {
        let stop = shared.stop.child_token();
        Self {
            shared,
            inbox,
            stop,
            tasks: TaskTracker::new(),
            peers: Mutex::default(),
            incoming: Mutex::default(),
        }
    }

    /// From any thread, onto the transport's.
    pub(super) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn_on(task, &self.shared.runtime);
    }

    pub(super) fn add(&self, id: u64, address: &str) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(id, address, self.shared.config.queue_bytes_max));
        lock(&self.peers).insert(id, peer.clone());
        peer
    }

    /// Nothing more is sent to it, and what it dialled is closed.
    pub(super) fn forget(&self, peer: &Peer) {
        peer.stop.cancel();
        lock(&self.peers).remove(&peer.id);
        for (_, incoming) in lock(&self.incoming).range(of_member(peer.id)) {
            incoming.replaced.cancel();
        }
    }

    pub(super) fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        lock(&self.peers).get(&id).cloned()
    }

    /// A member has dialled. It is there, so it need not be waited for any longer either.
    pub(super) fn arrived(&self, from: u64, purpose: Purpose) -> Arc<Incoming> {
        let incoming = Arc::new(Incoming {
            from,
            purpose,
            since: Instant::now(),
            replaced: self.stop.child_token(),
            bytes: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        if let Some(old) = lock(&self.incoming).insert((from, purpose), incoming.clone()) {
            old.replaced.cancel();
        }
        if let Some(peer) = self.peer(from) {
            peer.retry.notify_one();
        }
        incoming
    }

    pub(super) fn left(&self, incoming: &Arc<Incoming>) {
        let key = (incoming.from, incoming.purpose);
        if let Entry::Occupied(entry) = lock(&self.incoming).entry(key)
            && Arc::ptr_eq(entry.get(), incoming)
        {
            entry.remove();
        }
    }

    /// Whether this member has a connection to here. It ends with its process, whatever is between.
    pub(super) fn is_called_by(&self, id: u64) -> bool {
        lock(&self.incoming).contains_key(&(id, Purpose::Messages))
    }

    pub(super) fn status(&self) -> Vec<PeerStatus> {
        let peers: Vec<_> = lock(&self.peers).values().cloned().collect();
        let incoming = lock(&self.incoming);
        peers
            .iter()
            .map(|peer| {
                let from = incoming.get(&(peer.id, Purpose::Messages));
                let count = |of: fn(&Incoming) -> &AtomicU64| {
                    from.map_or(0, |incoming| of(incoming).load(Ordering::Relaxed))
                };
                PeerStatus {
                    receiving_since: from.map(|incoming| incoming.since),
                    received_bytes: count(|incoming| &incoming.bytes),
                    received_messages: count(|incoming| &incoming.messages),
                    refused_messages: count(|incoming| &incoming.refused),
                    ..peer.status()
                }
            })
            .collect()
    }
}

fn of_member(id: u64) -> std::ops::RangeInclusive<(u64, Purpose)> {
    (id, Purpose::Messages)..=(id, Purpose::Snapshot)
}
