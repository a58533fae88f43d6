//! What everybody was told, until a piece of it is checked.

use atoll_history::{Batch, Call, Lease};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

/// What clients, watchers and whoever disturbs them share.
pub(super) struct Shared {
    begun: Instant,
    pub(super) places: Vec<PathBuf>,
    /// Calls are made under it; who holds it alone knows that none is on its way.
    pub(super) gate: RwLock<()>,
    pub(super) stop: CancellationToken,
    /// Up to where everything has been checked; older revisions may be compacted.
    pub(super) base: AtomicI64,
    pub(super) operations: AtomicU64,
    pub(super) is_lying: bool,
    /// Whether large values are wanted.
    pub(super) large: AtomicBool,
    /// A server that clients do not ask, if it is one: what is measured is the others' answers.
    pub(super) shunned: AtomicUsize,
    record: Mutex<Record>,
    probe: Mutex<Probe>,
}

#[derive(Default)]
pub(super) struct Record {
    pub(super) calls: Vec<Call>,
    pub(super) leases: BTreeMap<i64, Lease>,
    pub(super) seen: BTreeMap<i64, u64>,
}

/// Looks for the first acknowledged write of those asked for after a moment, and how long each took.
#[derive(Default)]
struct Probe {
    since: Option<u64>,
    answered_at: Option<u64>,
    took: Option<Vec<u64>>,
}

impl Shared {
    pub(super) fn new(places: Vec<PathBuf>, is_lying: bool) -> Self {
        Self {
            begun: Instant::now(),
            places,
            gate: RwLock::new(()),
            stop: CancellationToken::new(),
            base: AtomicI64::new(1),
            operations: AtomicU64::new(0),
            is_lying,
            large: AtomicBool::new(false),
            shunned: AtomicUsize::new(usize::MAX),
            record: Mutex::default(),
            probe: Mutex::default(),
        }
    }

    /// Nanoseconds of a clock that all share.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    pub(super) fn called(&self, call: Call, is_acknowledged: bool) {
        self.operations.fetch_add(1, Ordering::Relaxed);
        if is_acknowledged {
            let mut probe = self.probe.lock().unwrap();
            if probe.answered_at.is_none() && probe.since.is_some_and(|at| at < call.asked_at) {
                probe.answered_at = Some(call.answered_at);
            }
            if let Some(took) = &mut probe.took {
                took.push(call.answered_at - call.asked_at);
            }
        }
        self.record.lock().unwrap().calls.push(call);
    }

    pub(super) fn saw(&self, batch: &Batch) {
        let (now, mut record) = (self.now(), self.record.lock().unwrap());
        for change in &batch.changes {
            record.seen.entry(change.revision).or_insert(now);
        }
    }

    pub(super) fn lease(&self, id: i64, change: impl FnOnce(&mut Lease)) {
        let mut record = self.record.lock().unwrap();
        let new = || Lease { id, keys: Vec::new(), alive_until: 0, revoked_at: None };
        change(record.leases.entry(id).or_insert_with(new));
    }

    /// Everything since the last time, and all leases.
    pub(super) fn take(&self) -> Record {
        let mut record = self.record.lock().unwrap();
        Record {
            calls: std::mem::take(&mut record.calls),
            seen: std::mem::take(&mut record.seen),
            leases: record.leases.clone(),
        }
    }

    /// Leases that ended long ago are of no use any more, unless they still have keys: whoever
    /// leads anew gives each its whole time again.
    pub(super) fn forget_leases(&self, before: u64, left: &BTreeSet<String>) {
        self.record.lock().unwrap().leases.retain(|_, lease| {
            lease.alive_until > before || lease.keys.iter().any(|key| left.contains(key))
        });
    }

    /// From now on the next acknowledged write is looked for.
    pub(super) fn expect_write(&self) -> u64 {
        let (now, mut probe) = (self.now(), self.probe.lock().unwrap());
        (probe.since, probe.answered_at) = (Some(now), None);
        now
    }

    pub(super) fn next_write(&self) -> Option<u64> {
        self.probe.lock().unwrap().answered_at
    }

    pub(super) fn measure(&self) {
        self.probe.lock().unwrap().took = Some(Vec::new());
    }

    /// How long acknowledged writes took.
    pub(super) fn measured(&self) -> Vec<u64> {
        self.probe.lock().unwrap().took.take().unwrap_or_default()
    }
}
