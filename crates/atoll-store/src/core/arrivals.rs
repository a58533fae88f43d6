//! Takes in a snapshot from another member: its bytes become a state file beside the present one,
//! whole and durable before the store's thread hears of it.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::backend::{Backend, KEYSPACES, Meta};
use crate::clock::Clock;
use crate::cluster::SnapshotSink;
use crate::disk::Disk;
use crate::embedded::StoreConfig;
use crate::mvcc::State;
use crate::newer::Newer;
use crate::snapshot::whole::Importer;

/// Where a snapshot is put together.
pub(crate) const ARRIVING_FILE: &str = "arriving.tmp";

/// Makes sinks, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    cache_bytes: usize,
    level_max: u32,
    busy: Arc<AtomicBool>,
}

/// A state that has arrived and could replace the present one.
pub(crate) struct Arrived {
    pub(crate) from: u64,
    /// For consensus, which decides about it.
    pub(crate) message: Bytes,
    pub(crate) backend: Backend,
    pub(crate) states: [State; KEYSPACES],
    pub(crate) meta: Meta,
    /// The next snapshot may come when this one has been taken over or given up.
    _turn: Turn,
}

impl Debug for Arrived {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Arrived").field("applied", &self.meta.applied).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Arrivals {
    pub(crate) fn new(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, config: &StoreConfig) -> Self {
        let (cache_bytes, level_max) = (config.cache_bytes, config.level_max);
        Self { disk, clock, cache_bytes, level_max, busy: Arc::default() }
    }

    /// `take` is called with the state when it is whole.
    pub(crate) fn begin<T: FnOnce(Arrived) + Send>(
        &self,
        from: u64,
        message: Bytes,
        take: T,
    ) -> io::Result<ArrivalSink<T>> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(io::Error::other("another snapshot is being taken in"));
        }
        let turn = Turn(self.busy.clone());
        let importer = Importer::new(self.disk.clone(), self.clock.clone(), ARRIVING_FILE)
            .map_err(io::Error::other)?;
        Ok(ArrivalSink { arrivals: self.clone(), importer, from, message, take, turn })
    }
}

pub(crate) struct ArrivalSink<T> {
    arrivals: Arrivals,
    importer: Importer,
    from: u64,
    message: Bytes,
    take: T,
    turn: Turn,
}

impl<T: FnOnce(Arrived) + Send> SnapshotSink for ArrivalSink<T> {
    fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.importer.push(chunk).map_err(io::Error::other)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { arrivals, importer, from, message, take, turn } = *self;
        importer.finish().map_err(io::Error::other)?;
        let backend = Backend::open_file(
            &*arrivals.disk,
            arrivals.clock.clone(),
            arrivals.cache_bytes,
            ARRIVING_FILE,
        )
        .map_err(io::Error::other)?
        .named_state(&*arrivals.disk);
        let loaded = backend.load().map_err(io::Error::other)?;
        let missing = || io::Error::other("the snapshot does not say what it is of");
        let meta = loaded.meta.ok_or_else(missing)?;
        let level = meta.roster.level;
        Newer::check("the state of the other servers", level, arrivals.level_max)
            .map_err(io::Error::other)?;
        take(Arrived { from, message, backend, states: loaded.states, meta, _turn: turn });
        Ok(())
    }
}
