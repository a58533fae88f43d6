//! What connections to peers and callers read about the cluster while the store's thread writes
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio::sync::watch;

use crate::cluster::{Hello, Membership, PEER_FORMAT, PEER_FORMAT_MIN, Progress, Refusal};
use crate::consensus::Position;
use crate::sync::lock;

/// Highest format level of replicated data that this release supports.
pub(crate) const LEVEL: u32 = 1;

/// Epoch and index: how far a peer has come for certain.
pub(crate) type Reached = (u64, u64);

#[derive(Debug)]
pub(crate) struct ClusterShared {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
    membership: watch::Sender<Membership>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    progress: Vec<Progress>,
    /// The end of the log on disk.
    last: Position,
    /// What each peer acknowledged to this server and was committed.
    acknowledged: BTreeMap<u64, Reached>,
    removed: BTreeSet<u64>,
    /// The epoch and the level that each peer said it has.
    peers: BTreeMap<u64, (u64, u32)>,
}

impl ClusterShared {
    pub(crate) fn new(cluster_id: [u8; 16], member_id: u64, epoch: u64) -> Self {
        let (membership, _) = watch::channel(Membership::default());
        Self { cluster_id, member_id, epoch, membership, inner: Mutex::default() }
    }

    pub(crate) fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Membership> {
        self.membership.subscribe()
    }

    pub(crate) fn set_membership(&self, membership: Membership) {
        self.membership.send_if_modified(|present| {
            let changed = *present != membership;
            if changed {
                *present = membership;
            }
            changed
        });
    }

    pub(crate) fn progress(&self) -> Vec<Progress> {
        lock(&self.inner).progress.clone()
    }

    pub(crate) fn set_progress(&self, progress: Vec<Progress>) {
        lock(&self.inner).progress = progress;
    }

    pub(crate) fn set_last(&self, last: Position) {
        lock(&self.inner).last = last;
    }

    pub(crate) fn set_removed(&self, removed: &BTreeSet<u64>) {
        lock(&self.inner).removed.clone_from(removed);
    }

    pub(crate) fn set_acknowledged(&self, all: &BTreeMap<u64, Reached>) {
        lock(&self.inner).acknowledged.clone_from(all);
    }

    /// The epoch and the level that a peer said it has.
    pub(crate) fn said(&self, peer: u64) -> Option<(u64, u32)> {
        lock(&self.inner).peers.get(&peer).copied()
    }

    pub(crate) fn hello(&self, peer: u64) -> Hello {
        let inner = lock(&self.inner);
        Hello {
            format: PEER_FORMAT,
            level: LEVEL,
            cluster_id: self.cluster_id,
            from: self.member_id,
            to: peer,
            epoch: self.epoch,
            last: inner.last,
            acknowledged: inner.acknowledged.get(&peer).copied().unwrap_or_default(),
        }
    }

    /// Whether a peer may be talked to. `id` in an [`Refusal::OldCopy`] may be this server itself.
    pub(crate) fn check(&self, mine: &Hello, hello: &Hello) -> Result<(), Refusal> {
        if hello.format.min(PEER_FORMAT) < PEER_FORMAT_MIN {
            return Err(Refusal::Format { theirs: hello.format, ours: PEER_FORMAT });
        }
        if hello.cluster_id != self.cluster_id {
            let (theirs, ours) = (hex(&hello.cluster_id), hex(&self.cluster_id));
            return Err(Refusal::OtherCluster { theirs, ours });
        }
        if hello.to != self.member_id {
            return Err(Refusal::NotAddressed { id: hello.to });
        }
        let id = hello.from;
        let mut inner = lock(&self.inner);
        if inner.removed.contains(&id) {
            return Err(Refusal::Removed { id });
        }
        // One that is not known may have been added by entries that have not come here yet; its
        // certificate says that it is of this cluster.
        let (epoch, index) = mine.acknowledged;
        let (said_epoch, level) = inner.peers.get(&id).copied().unwrap_or_default();
        if hello.last.index < index || hello.epoch < epoch.max(said_epoch) {
            return Err(Refusal::OldCopy { id, acknowledged: index, last: hello.last.index });
        }
        let (epoch, index) = hello.acknowledged;
        if inner.last.index < index || self.epoch < epoch {
            let last = inner.last.index;
            return Err(Refusal::OldCopy { id: self.member_id, acknowledged: index, last });
        }
        inner.peers.insert(id, (hello.epoch, hello.level.max(level)));
        Ok(())
    }
}

pub(crate) fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: u64 = 2;

    fn said(last: u64) -> Hello {
        Hello {
            last: Position { index: last, term: 1 },
            from: PEER,
            to: 1,
            ..ClusterShared::new([7; 16], 1, 1).hello(PEER)
        }
    }

    #[test]
    fn a_peer_is_held_to_what_it_had_acknowledged_when_it_was_asked() {
        let shared = ClusterShared::new([7; 16], 1, 1);
        shared.set_acknowledged(&BTreeMap::from([(PEER, (1, 100))]));
        let mine = shared.hello(PEER);
        // What it acknowledges on another connection while its hello is on the way.
        shared.set_acknowledged(&BTreeMap::from([(PEER, (1, 101))]));
        assert_eq!(shared.check(&mine, &said(100)), Ok(()));
        let old = Refusal::OldCopy { id: PEER, acknowledged: 100, last: 99 };
        assert_eq!(shared.check(&mine, &said(99)), Err(old));
        // The next time it is held to that too.
        let old = Refusal::OldCopy { id: PEER, acknowledged: 101, last: 100 };
        assert_eq!(shared.check(&shared.hello(PEER), &said(100)), Err(old));
    }

    #[test]
    fn a_later_release_is_talked_to_and_one_without_a_common_format_is_not() {
        let shared = ClusterShared::new([7; 16], 1, 1);
        let mine = shared.hello(PEER);
        let speaks = |format| shared.check(&mine, &Hello { format, ..said(0) });
        assert_eq!(speaks(PEER_FORMAT + 1), Ok(()));
        assert_eq!(speaks(0), Err(Refusal::Format { theirs: 0, ours: PEER_FORMAT }));
    }
}
