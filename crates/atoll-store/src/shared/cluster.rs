//! What connections to peers and callers read about the cluster while the store's thread writes
//! it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use tokio::sync::watch;

use crate::cluster::{
    Formats, Hello, Member, MemberFormats, Membership, PEER_FORMAT, PEER_FORMAT_MIN, Progress,
    Refusal,
};
use crate::consensus::Position;
use crate::sync::lock;

/// Highest format level of replicated data that this release supports. What a level added:
///
/// - 2: the release of each member stands in the log and the state.
pub(crate) const LEVEL: u32 = 2;
/// The lowest that this release still runs at: what the release before supports.
pub(crate) const LEVEL_MIN: u32 = 1;

/// Epoch and index: how far a peer has come for certain.
pub(crate) type Reached = (u64, u64);

#[derive(Debug)]
pub(crate) struct ClusterShared {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
    /// What this server says that it supports, and its release.
    own: Said,
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
    /// What each peer said last.
    peers: BTreeMap<u64, Said>,
    /// The cluster's format level.
    level: u32,
    /// As the log has them.
    releases: BTreeMap<u64, String>,
}

/// What a member says of itself when it greets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Said {
    pub(crate) epoch: u64,
    /// The highest format level that it supports.
    pub(crate) level: u32,
    /// Empty when it did not say.
    pub(crate) release: String,
}

impl ClusterShared {
    pub(crate) fn new(cluster_id: [u8; 16], member_id: u64, own: Said) -> Self {
        let (membership, _) = watch::channel(Membership::default());
        Self { cluster_id, member_id, epoch: own.epoch, own, membership, inner: Mutex::default() }
    }

    pub(crate) fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Membership> {
        self.membership.subscribe()
    }

    pub(crate) fn set_membership(
        &self,
        members: &BTreeMap<u64, Member>,
        leader: Option<u64>,
        term: u64,
    ) {
        self.membership.send_if_modified(|present| {
            let changed = (present.leader, present.term) != (leader, term)
                || !members.values().eq(&present.members);
            if changed {
                let members = members.values().cloned().collect();
                *present = Membership { members, leader, term };
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

    pub(crate) fn last(&self) -> Position {
        lock(&self.inner).last
    }

    pub(crate) fn set_removed(&self, removed: &BTreeSet<u64>) {
        lock(&self.inner).removed.clone_from(removed);
    }

    pub(crate) fn set_acknowledged(&self, all: &BTreeMap<u64, Reached>) {
        lock(&self.inner).acknowledged.clone_from(all);
    }

    /// The format level, and the releases of the members, as the log has them.
    pub(crate) fn set_formats(&self, level: u32, releases: &BTreeMap<u64, String>) {
        let mut inner = lock(&self.inner);
        inner.level = level;
        if inner.releases != *releases {
            inner.releases.clone_from(releases);
        }
    }

    pub(crate) fn formats(&self) -> Formats {
        let members = self.membership.borrow().members.iter().map(|one| one.id).collect::<Vec<_>>();
        let inner = lock(&self.inner);
        let of = |id: u64| {
            let said = if id == self.member_id { Some(&self.own) } else { inner.peers.get(&id) };
            let known = said.map(|said| &said.release).filter(|release| !release.is_empty());
            MemberFormats {
                supported: said.map(|said| said.level),
                release: known.or(inner.releases.get(&id)).cloned(),
            }
        };
        Formats {
            level: inner.level,
            supported: self.own.level,
            members: members.into_iter().map(|id| (id, of(id))).collect(),
        }
    }

    /// What a peer said of itself last.
    pub(crate) fn said(&self, peer: u64) -> Option<Said> {
        lock(&self.inner).peers.get(&peer).cloned()
    }

    pub(crate) fn hello(&self, peer: u64) -> Hello {
        let inner = lock(&self.inner);
        Hello {
            format: PEER_FORMAT,
            level: self.own.level,
            cluster_id: self.cluster_id,
            from: self.member_id,
            to: peer,
            epoch: self.epoch,
            last: inner.last,
            acknowledged: inner.acknowledged.get(&peer).copied().unwrap_or_default(),
            release: self.own.release.clone(),
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
        let said_epoch = inner.peers.get(&id).map_or(0, |said| said.epoch);
        if hello.last.index < index || hello.epoch < epoch.max(said_epoch) {
            return Err(Refusal::OldCopy { id, acknowledged: index, last: hello.last.index });
        }
        let (epoch, index) = hello.acknowledged;
        if inner.last.index < index || self.epoch < epoch {
            let last = inner.last.index;
            return Err(Refusal::OldCopy { id: self.member_id, acknowledged: index, last });
        }
        if hello.level < inner.level {
            return Err(Refusal::Level { theirs: hello.level, cluster: inner.level });
        }
        // The last word counts: it may have been started with another release.
        let (epoch, level, release) = (hello.epoch, hello.level, hello.release.clone());
        inner.peers.insert(id, Said { epoch, level, release });
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
        Hello { last: Position { index: last, term: 1 }, from: PEER, to: 1, ..shared().hello(PEER) }
    }

    fn shared() -> ClusterShared {
        let own = Said { epoch: 1, level: LEVEL, release: "1.2.3".to_owned() };
        ClusterShared::new([7; 16], 1, own)
    }

    #[test]
    fn a_peer_is_held_to_what_it_had_acknowledged_when_it_was_asked() {
        let shared = shared();
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
        let shared = shared();
        let mine = shared.hello(PEER);
        let speaks = |format| shared.check(&mine, &Hello { format, ..said(0) });
        assert_eq!(speaks(PEER_FORMAT + 1), Ok(()));
        assert_eq!(speaks(0), Err(Refusal::Format { theirs: 0, ours: PEER_FORMAT }));
    }

    #[test]
    fn one_that_supports_less_than_the_cluster_has_is_refused_and_the_last_word_counts() {
        let shared = shared();
        let mine = shared.hello(PEER);
        let says = |level| shared.check(&mine, &Hello { level, ..said(0) });
        shared.set_formats(1, &BTreeMap::new());
        assert_eq!((says(2), says(1)), (Ok(()), Ok(())));
        // It was started with an older release since.
        assert_eq!(shared.said(PEER).unwrap().level, 1);
        shared.set_formats(2, &BTreeMap::new());
        assert_eq!(says(1), Err(Refusal::Level { theirs: 1, cluster: 2 }));
        assert_eq!(says(3), Ok(()));
    }
}
