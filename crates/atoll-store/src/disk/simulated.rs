//! A disk in memory that loses and tears what was not synced, fills up, and fails on request.
//!
//! Every change counts as one operation, so a run can be repeated with a crash or an error at
//! each of them. What a crash leaves is drawn from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile};
use crate::sync::lock;

/// Disks write this much whole or not at all.
const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: u64 = 4096;

/// What becomes of changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The machine lost power: each sector is drawn by itself.
    PowerLoss,
    /// The same, and none survive.
    PowerLossAll,
    /// Only the process died: the kernel keeps all of it.
    Kill,
}

/// A disk that breaks its promises as a wrong store would break its own: planted to see that the
/// simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Syncs of files whose names begin so do nothing.
    SkipsSync(&'static str),
    /// A sync makes durable only what was written before the sync before it.
    SyncsLate(&'static str),
    /// Syncs of this folder do nothing.
    SkipsFolderSync(&'static str),
    /// Zeros over something in the log are not written: a torn tail stays.
    KeepsTornTail,
    /// Batches without frames are not written.
    LosesSeals,
    /// What was damaged last in the log is cut with all behind it, as if it had been torn.
    CutsDamage,
}

#[derive(Debug, Clone)]
pub struct SimulatedDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    files: Vec<FileState>,
    /// As programs see them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync, in order: a crash keeps some first ones.
    name_changes: Vec<NameChange>,
    operations: u64,
    crash_at: Option<u64>,
    fail_at: Option<u64>,
    crashed: bool,
    capacity_blocks: Option<usize>,
    lie: Option<Lie>,
    /// The file whose write the crash cut off; the change is its last unsynced one.
    cut_off: Option<usize>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
}

#[derive(Debug, Default)]
struct FileState {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Of these, the first that the last sync has already heard of; only for a planted lie.
    asked: usize,
    allocated: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLength(u64),
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimulatedDisk {
    pub fn new() -> Self {
        let inner = Inner {
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            operations: 0,
            crash_at: None,
            fail_at: None,
            crashed: false,
            capacity_blocks: None,
            lie: None,
            cut_off: None,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Changes made so far.
    pub fn operations(&self) -> u64 {
        lock(&self.inner).operations
    }

    /// From the operation of this number on nothing works until [`Self::restart`].
    pub fn crash_at(&self, operation: Option<u64>) {
        lock(&self.inner).crash_at = operation;
    }

    /// The operation of this number fails with an I/O error. A failed sync drops what it should
    /// have made durable, as the kernel does.
    pub fn fail_at(&self, operation: Option<u64>) {
        lock(&self.inner).fail_at = operation;
    }

    pub fn plant(&self, lie: Option<Lie>) {
        lock(&self.inner).lie = lie;
    }

    pub fn crashed(&self) -> bool {
        lock(&self.inner).crashed
    }

    /// No more blocks than now, plus `spare`; `None` is no limit.
    pub fn limit_space(&self, spare: Option<usize>) {
        let mut inner = lock(&self.inner);
        inner.capacity_blocks = spare.map(|spare| inner.blocks() + spare);
    }

    /// Decides what survived and lets the disk work again.
    pub fn restart(&self, crash: Crash, seed: u64) {
        let mut inner = lock(&self.inner);
        inner.crashed = false;
        inner.crash_at = None;
        inner.fail_at = None;
        let mut random = StdRng::seed_from_u64(seed);
        let cut_off = inner.cut_off.take();
        if crash == Crash::Kill {
            if let Some(id) = cut_off {
                inner.files[id].cut_last_write(&mut random);
            }
            return;
        }
        let changes = std::mem::take(&mut inner.name_changes);
        let kept =
            if crash == Crash::PowerLoss { random.random_range(0..=changes.len()) } else { 0 };
        for change in &changes[..kept] {
            change.apply(&mut inner.durable_names);
        }
        inner.names = inner.durable_names.clone();
        for file in &mut inner.files {
            file.lose(crash, &mut random);
        }
    }

    /// Changes a byte of a file behind the store's back.
    pub fn damage(&self, name: &str, offset: usize, mask: u8) {
        let mut inner = lock(&self.inner);
        let Some(id) = inner.names.get(name).copied() else { return };
        let lies = inner.lie == Some(Lie::CutsDamage);
        let file = &mut inner.files[id];
        let from = if lies { offset - offset % to_usize(BLOCK_BYTES) } else { offset };
        for content in [&mut file.current, &mut file.durable] {
            if let Some(byte) = content.get_mut(offset) {
                *byte ^= mask;
            }
            if let Some(rest) = content.get_mut(from..).filter(|_| lies) {
                rest.fill(0);
            }
        }
    }
}

impl NameChange {
    fn folder(&self) -> &str {
        let (Self::Link(name, _) | Self::Unlink(name)) = self;
        name.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, id) => {
                names.insert(name.clone(), *id);
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, new) => overwrite(content, *offset, new),
            Self::SetLength(length) => content.resize(to_usize(*length), 0),
        }
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn overwrite(content: &mut Vec<u8>, offset: u64, new: &[u8]) {
    let start = to_usize(offset);
    let end = start + new.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(new);
}

impl FileState {
    /// A process that is killed in the middle of a write leaves the first pages of it.
    fn cut_last_write(&mut self, random: &mut StdRng) {
        if let Some(Change::Write(offset, content)) = self.unsynced.last_mut() {
            let pages = (*offset + content.len() as u64) / BLOCK_BYTES - *offset / BLOCK_BYTES;
            let end = (*offset / BLOCK_BYTES + random.random_range(0..=pages)) * BLOCK_BYTES;
            content.truncate(to_usize(end.saturating_sub(*offset)));
        }
        self.current.clone_from(&self.durable);
        for change in &self.unsynced {
            change.apply(&mut self.current);
        }
    }

    fn lose(&mut self, crash: Crash, random: &mut StdRng) {
        self.asked = 0;
        for change in std::mem::take(&mut self.unsynced) {
            if crash == Crash::PowerLossAll {
                continue;
            }
            match &change {
                Change::SetLength(_) if random.random_bool(0.5) => change.apply(&mut self.durable),
                Change::SetLength(_) => {}
                Change::Write(offset, new) => {
                    let all = random.random_bool(0.3);
                    let mut at = 0;
                    while at < new.len() {
                        // Sectors lie at multiples of their size in the file.
                        let into = (to_usize(*offset) + at) % SECTOR_BYTES;
                        let length = (SECTOR_BYTES - into).min(new.len() - at);
                        if all || random.random_bool(0.5) {
                            overwrite(&mut self.durable, offset + at as u64, &new[at..at + length]);
                        }
                        at += length;
                    }
                }
            }
        }
        self.current.clone_from(&self.durable);
    }
}

impl Inner {
    fn blocks(&self) -> usize {
        let named: BTreeSet<_> = self.names.values().collect();
        named.into_iter().map(|id| self.files[*id].allocated.len()).sum()
    }

    /// Counts an operation; an error when it is the one that should not happen.
    fn operate(&mut self) -> io::Result<()> {
        if self.crashed {
            return Err(crashed());
        }
        self.operations += 1;
        if self.crash_at.is_some_and(|at| self.operations >= at) {
            self.crashed = true;
            return Err(crashed());
        }
        if self.fail_at == Some(self.operations) {
            return Err(io::Error::other("simulated I/O error"));
        }
        Ok(())
    }

    fn is_named(&self, id: usize, prefix: &str) -> bool {
        self.names.iter().any(|(name, named)| *named == id && name.starts_with(prefix))
    }

    /// Whether a planted lie swallows this write.
    fn swallows(&self, id: usize, offset: u64, content: &[u8]) -> bool {
        let zeros = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
        match self.lie {
            Some(Lie::KeepsTornTail) => {
                let start = to_usize(offset);
                let old = self.files[id].current.get(start..start + content.len());
                self.is_named(id, "wal/") && zeros(content) && old.is_some_and(|old| !zeros(old))
            }
            Some(Lie::LosesSeals) => {
                self.is_named(id, "wal/") && content.starts_with(b"ALBT\0\0\0\0")
            }
            _ => false,
        }
    }

    fn name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

fn crashed() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Disk for SimulatedDisk {
    fn describe(&self, name: &str) -> String {
        format!("simulated/{name}")
    }

    fn create_folder(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let prefix = format!("{folder}/");
        let inner = lock(&self.inner);
        Ok(inner.names.keys().filter_map(|name| Some(name.strip_prefix(&prefix)?.into())).collect())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = lock(&self.inner);
        if inner.crashed {
            return Err(crashed());
        }
        let id = match inner.names.get(name) {
            Some(id) => *id,
            None if create => {
                inner.operate()?;
                inner.files.push(FileState::default());
                let id = inner.files.len() - 1;
                inner.name(NameChange::Link(name.to_owned(), id));
                id
            }
            None => return Err(missing(name)),
        };
        Ok(Arc::new(SimulatedFile { inner: self.inner.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.operate()?;
        let id = *inner.names.get(from).ok_or_else(|| missing(from))?;
        inner.name(NameChange::Unlink(from.to_owned()));
        inner.name(NameChange::Link(to.to_owned(), id));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.operate()?;
        if !inner.names.contains_key(name) {
            return Err(missing(name));
        }
        inner.name(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        inner.operate()?;
        if inner.lie.is_some_and(|lie| matches!(lie, Lie::SkipsFolderSync(one) if one == folder)) {
            return Ok(());
        }
        let (synced, others): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.name_changes)
            .into_iter()
            .partition(|change| change.folder() == folder);
        inner.name_changes = others;
        for change in synced {
            change.apply(&mut inner.durable_names);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    inner: Arc<Mutex<Inner>>,
    id: usize,
}

impl SimulatedFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let outcome = inner.operate();
        let file = &mut inner.files[self.id];
        if outcome.is_err() && !matches!(change, Change::Write(..)) {
            return outcome;
        }
        // A write that is cut off by the crash may have reached the disk in part.
        change.apply(&mut file.current);
        file.unsynced.push(change);
        if outcome.is_err() && inner.crashed {
            inner.cut_off = Some(self.id);
        }
        outcome
    }
}

impl DiskFile for SimulatedFile {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.inner).files[self.id].current.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = lock(&self.inner);
        let start = to_usize(offset);
        let found = inner.files[self.id].current.get(start..start + out.len());
        let found = found.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        {
            let mut inner = lock(&self.inner);
            if inner.crashed {
                return Err(crashed());
            }
            if inner.swallows(self.id, offset, content) {
                return Ok(());
            }
            let end = offset + content.len() as u64;
            let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
            let used = inner.blocks();
            let capacity = inner.capacity_blocks.unwrap_or(usize::MAX);
            let allocated = &mut inner.files[self.id].allocated;
            let new: Vec<_> = blocks.filter(|block| !allocated.contains(block)).collect();
            if !new.is_empty() && used + new.len() > capacity {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            allocated.extend(new);
        }
        self.change(Change::Write(offset, content.to_vec()))
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        if lock(&self.inner).crashed {
            return Err(crashed());
        }
        self.change(Change::SetLength(length))
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let outcome = inner.operate();
        let crashed = inner.crashed;
        let (mut skips, mut late) = (false, false);
        match inner.lie {
            Some(Lie::SkipsSync(prefix)) => skips = inner.is_named(self.id, prefix),
            Some(Lie::SyncsLate(prefix)) => late = inner.is_named(self.id, prefix),
            _ => {}
        }
        let file = &mut inner.files[self.id];
        if outcome.is_err() {
            if !crashed {
                // The kernel says so once and forgets the pages.
                file.unsynced.clear();
            }
            return outcome;
        }
        let count = match (skips, late) {
            (true, _) => 0,
            (false, true) => file.asked,
            (false, false) => file.unsynced.len(),
        };
        for change in file.unsynced.drain(..count) {
            change.apply(&mut file.durable);
        }
        file.asked = file.unsynced.len();
        Ok(())
    }
}
