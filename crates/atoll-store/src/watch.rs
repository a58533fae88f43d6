//! Watches: cursors over one ring of recent events, shared by all of a keyspace's watches.
//!
//! Nothing is queued per watch. A watch that is behind the ring reads the state instead; one that
//! falls too far behind while events keep coming is ended.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use crate::kv::{KeyRange, Revision, WatchRequest};
use crate::mvcc::StoredEvent;
use crate::sync::lock;

mod stream;

pub(crate) use stream::WatchStream;

/// Revisions looked at for one batch, so that a poll does not hold the hub for long.
const SCAN_MAX: usize = 4096;
/// A batch ends after the revision that brings it over this. Each watch of a slow client may have
/// one on its way.
const BATCH_BYTES: usize = 64 << 10;

/// All events of one revision.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<StoredEvent>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
    ring_bytes_max: usize,
    /// Bytes of matching events that a watch may be behind.
    behind_bytes_max: u64,
}

#[derive(Debug)]
struct Inner {
    /// The last published revision.
    revision: Revision,
    /// Revisions without a gap, the last one being `revision`.
    ring: VecDeque<Arc<Group>>,
    ring_bytes: usize,
    watches: HashMap<u64, Watch>,
    next_id: u64,
    stopped: bool,
}

#[derive(Debug)]
struct Watch {
    range: KeyRange,
    prev_kv: bool,
    /// The first revision to deliver.
    start: Revision,
    /// The first revision that may hold an event not yet delivered.
    unseen: Option<Revision>,
    behind_bytes: u64,
    /// Until it has reached the present once, being behind is what was asked for.
    catching_up: bool,
    too_slow: bool,
    progress: bool,
    /// Whose requests for progress it hears besides those to all; 0 is nobody's.
    group: u64,
    waker: Option<Waker>,
}

/// What a watch should do next.
enum Next {
    Wait,
    Batch {
        through: Revision,
        groups: Vec<Arc<Group>>,
    },
    /// The ring no longer has what is needed.
    ReadState {
        from: Revision,
        through: Revision,
    },
    Progress {
        revision: Revision,
    },
    TooSlow,
    Stopped,
}

impl Hub {
    pub(crate) fn new(revision: Revision, ring_bytes_max: usize, behind_bytes_max: u64) -> Self {
        let inner = Inner {
            revision,
            ring: VecDeque::new(),
            ring_bytes: 0,
            watches: HashMap::new(),
            next_id: 1,
            stopped: false,
        };
        Self { inner: Mutex::new(inner), ring_bytes_max, behind_bytes_max }
    }

    /// Whether some watch wants to know what a change of this key replaces.
    pub(crate) fn wants_prev(&self, key: &[u8]) -> bool {
        let inner = lock(&self.inner);
        inner.watches.values().any(|watch| watch.prev_kv && watch.range.contains(key))
    }

    /// Adds the events of the next revision and wakes those who watch for them.
    pub(crate) fn publish(&self, events: Vec<StoredEvent>) {
        let Some(revision) = events.first().map(|event| event.at.main) else { return };
        let bytes = events
            .iter()
            .map(|event| event.kv.key.len() + event.kv.value.len() + size_of::<StoredEvent>())
            .sum();
        let group = Arc::new(Group { revision, events, bytes });
        let mut inner = lock(&self.inner);
        for watch in inner.watches.values_mut() {
            watch.notice(&group, self.behind_bytes_max);
        }
        inner.revision = revision;
        inner.ring_bytes += bytes;
        inner.ring.push_back(group);
        while inner.ring_bytes > self.ring_bytes_max {
            let Some(oldest) = inner.ring.pop_front() else { break };
            inner.ring_bytes -= oldest.bytes;
        }
    }

    /// The state was replaced by one of this revision: what happened between is read from it.
    pub(crate) fn jump(&self, revision: Revision) {
        let mut inner = lock(&self.inner);
        let next = inner.revision + 1;
        if revision < next {
            return;
        }
        inner.ring.clear();
        inner.ring_bytes = 0;
        inner.revision = revision;
        for watch in inner.watches.values_mut() {
            let from = next.max(watch.start);
            if from <= revision {
                watch.unseen.get_or_insert(from);
                watch.catching_up = true;
                watch.wake();
            }
        }
    }

    /// Makes every watch, or those of a group, report how far it is once it is at the present.
    pub(crate) fn request_progress(&self, group: Option<u64>) -> Revision {
        let mut inner = lock(&self.inner);
        let asked = |watch: &&mut Watch| group.is_none_or(|group| watch.group == group);
        for watch in inner.watches.values_mut().filter(asked) {
            watch.progress = true;
            watch.wake();
        }
        inner.revision
    }

    pub(crate) fn stop(&self) {
        let mut inner = lock(&self.inner);
        inner.stopped = true;
        for watch in inner.watches.values_mut() {
            watch.wake();
        }
    }

    fn register(&self, request: &WatchRequest, group: u64) -> u64 {
        let mut inner = lock(&self.inner);
        // As in etcd, zero and below mean the present too.
        let start = request.start_revision.filter(|start| *start > 0);
        let start = start.unwrap_or(inner.revision + 1);
        let behind = start <= inner.revision;
        let id = inner.next_id;
        inner.next_id += 1;
        let watch = Watch {
            range: request.range.clone(),
            prev_kv: request.prev_kv,
            start,
            unseen: behind.then_some(start),
            behind_bytes: 0,
            catching_up: behind,
            too_slow: false,
            progress: false,
            group,
            waker: None,
        };
        inner.watches.insert(id, watch);
        id
    }

    fn unregister(&self, id: u64) {
        lock(&self.inner).watches.remove(&id);
    }

    fn next(&self, id: u64, waker: &Waker) -> Next {
        let mut inner = lock(&self.inner);
        let Inner { revision, ring, watches, stopped, .. } = &mut *inner;
        let Some(watch) = watches.get_mut(&id) else { return Next::Stopped };
        if watch.too_slow {
            return Next::TooSlow;
        }
        let Some(unseen) = watch.unseen else {
            if *stopped {
                return Next::Stopped;
            }
            watch.catching_up = false;
            if std::mem::take(&mut watch.progress) {
                return Next::Progress { revision: *revision };
            }
            watch.waker = Some(waker.clone());
            return Next::Wait;
        };
        match ring.front() {
            Some(oldest) if oldest.revision <= unseen => watch.collect(unseen, *revision, ring),
            _ => Next::ReadState { from: unseen, through: *revision },
        }
    }

    /// A batch up to `through` was read from the state.
    fn seen_from_state(&self, id: u64, through: Revision) {
        let mut inner = lock(&self.inner);
        let present = inner.revision;
        if let Some(watch) = inner.watches.get_mut(&id) {
            watch.behind_bytes = 0;
            watch.unseen = (through < present).then_some(through + 1);
        }
    }
}

impl Watch {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn matches(&self, group: &Group) -> bool {
        group.revision >= self.start
            && group.events.iter().any(|event| self.range.contains(&event.kv.key))
    }

    fn notice(&mut self, group: &Group, behind_bytes_max: u64) {
        if !self.matches(group) {
            return;
        }
        self.unseen.get_or_insert(group.revision);
        self.behind_bytes += group.bytes as u64;
        if self.behind_bytes > behind_bytes_max && !self.catching_up {
            self.too_slow = true;
        }
        self.wake();
    }

    /// What the ring has for this watch from `unseen` on, a batch at most.
    fn collect(
        &mut self,
        unseen: Revision,
        present: Revision,
        ring: &VecDeque<Arc<Group>>,
    ) -> Next {
        let oldest = ring.front().map_or(unseen, |group| group.revision);
        let skip = usize::try_from(unseen - oldest).unwrap_or(0);
        let mut groups = Vec::new();
        let mut bytes = 0;
        let mut through = unseen - 1;
        for group in ring.iter().skip(skip).take(SCAN_MAX) {
            through = group.revision;
            if self.matches(group) {
                bytes += group.bytes;
                groups.push(group.clone());
            }
            if bytes > BATCH_BYTES {
                break;
            }
        }
        self.unseen = (through < present).then_some(through + 1);
        self.behind_bytes =
            if self.unseen.is_none() { 0 } else { self.behind_bytes.saturating_sub(bytes as u64) };
        Next::Batch { through, groups }
    }
}
