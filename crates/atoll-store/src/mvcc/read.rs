//! Reads in two steps: what is asked for is found under the lock, values that only the backend
//! has are fetched without it, from the snapshot that was current then.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{History, ReadFault, Record, RevKey, State, Version};
use crate::backend::View;
use crate::kv::{Error, Event, KeyRange, KeyValue, RangeRequest, RangeResult, Revision};

/// Values that a caller's own thread fetches, each a few microseconds when it is not cached.
const FETCHED_AT_ONCE_MAX: usize = 64;

/// Records that one read for a watch looks at, for it holds up writers meanwhile.
const SCAN_MAX: usize = 4096;

/// A range whose values may still have to be fetched.
#[derive(Debug)]
pub(crate) struct Plan {
    result: RangeResult,
    view: Option<Arc<View>>,
    /// Positions in the result, and where the backend has their values.
    missing: Vec<(usize, RevKey)>,
}

impl Plan {
    /// Whether so much is to be fetched from the file that an asynchronous thread should not
    /// wait for it.
    pub(crate) fn is_long(&self) -> bool {
        self.missing.len() > FETCHED_AT_ONCE_MAX
    }

    pub(crate) fn finish(mut self) -> Result<RangeResult, ReadFault> {
        for (position, at) in self.missing {
            let record = fetch(self.view.as_deref(), at)?;
            self.result.kvs[position].value = record.value;
        }
        Ok(self.result)
    }
}

fn fetch(view: Option<&View>, at: RevKey) -> Result<Record, ReadFault> {
    let found = view.map(|view| view.get(at)).transpose()?.flatten();
    found.ok_or_else(|| ReadFault {
        detail: format!("it does not hold revision {}.{}, which the index names", at.main, at.sub),
    })
}

/// Events of whole revisions, in order, and the last revision they cover.
#[derive(Debug)]
pub(crate) struct PlannedEvents {
    pub(crate) through: Revision,
    pub(crate) events: Vec<Event>,
}

impl State {
    pub(crate) fn check_revision(&self, revision: Option<Revision>) -> Result<(), Error> {
        match revision {
            // As in etcd, zero and below are the present.
            Some(..=0) => Ok(()),
            Some(requested) if requested > self.revision => {
                Err(Error::Future { requested, current: self.revision })
            }
            Some(requested) if requested < self.compacted => {
                Err(Error::Compacted { requested, compacted: self.compacted })
            }
            _ => Ok(()),
        }
    }

    /// `current` is the revision to report: within a transaction it has moved already.
    pub(crate) fn plan(&self, request: &RangeRequest, current: Revision) -> Plan {
        let at = request.revision.filter(|at| *at > 0).unwrap_or(Revision::MAX);
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut result = RangeResult { revision: current, ..RangeResult::default() };
        let mut missing = Vec::new();
        for (key, history) in self.found(&request.range) {
            let Some(version) = history.seen_at(at) else { continue };
            result.count += 1;
            if request.count_only || result.kvs.len() >= limit {
                continue;
            }
            let mut kv = key_value(key.clone(), version);
            if !request.keys_only && version.value_bytes > 0 {
                match self.in_memory(version.at) {
                    Some(record) => kv.value = record.value.clone(),
                    None => missing.push((result.kvs.len(), version.at)),
                }
            }
            result.kvs.push(kv);
        }
        result.more = !request.count_only && result.count > result.kvs.len() as u64;
        Plan { result, view: self.view.clone(), missing }
    }

    /// One walk down the tree finds a single key; each end of a range takes one.
    fn found(&self, range: &KeyRange) -> impl Iterator<Item = (&Bytes, &History)> {
        let is_range = range.end.is_some();
        let one = if is_range { None } else { self.index.get_key_value(range.key.as_ref()) };
        let many = is_range.then(|| self.index.range::<[u8], _>(bounds(range)));
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn in_memory(&self, at: RevKey) -> Option<&Record> {
        self.pending
            .records
            .get(&at)
            .or_else(|| self.flushing.as_ref().and_then(|flushing| flushing.records.get(&at)))
    }

    /// Reads a version's value now, from wherever it is.
    pub(crate) fn load(&self, key: &Bytes, version: &Version) -> Result<KeyValue, ReadFault> {
        let mut kv = key_value(key.clone(), version);
        if version.value_bytes > 0 {
            kv.value = match self.in_memory(version.at) {
                Some(record) => record.value.clone(),
                None => fetch(self.view.as_deref(), version.at)?.value,
            };
        }
        Ok(kv)
    }

    /// What the version at `at` replaced, if it is still kept.
    pub(crate) fn load_replaced(
        &self,
        key: &Bytes,
        at: RevKey,
    ) -> Result<Option<KeyValue>, ReadFault> {
        let history = self.index.get(key);
        let replaced = history.and_then(|history| history.replaced_by(at));
        replaced.map(|version| self.load(key, version)).transpose()
    }

    /// The events of `range` from `from` up to `to`, or fewer whole revisions once `bytes_max`
    /// is exceeded.
    pub(crate) fn events(
        &self,
        range: &KeyRange,
        (from, to): (Revision, Revision),
        prev_kv: bool,
        bytes_max: usize,
    ) -> Result<PlannedEvents, Error> {
        if from < self.compacted {
            return Err(Error::Compacted { requested: from, compacted: self.compacted });
        }
        let mut found = Collected {
            prev_kv,
            to,
            bytes_max,
            bytes: 0,
            visited: 0,
            through: from - 1,
            events: Vec::new(),
        };
        let mut complete = true;
        if let Some(view) = &self.view {
            complete = view.scan(RevKey { main: from, sub: 0 }, |at, encoded| {
                if !found.goes_on(at) {
                    return Ok(false);
                }
                // Most records are of other keys; only those asked for are decoded whole.
                if range.contains(&Record::decode_key(encoded)?) {
                    found.add(self, at, &Record::decode(Bytes::copy_from_slice(encoded))?)?;
                }
                Ok(true)
            })?;
        }
        let start = RevKey { main: from, sub: 0 };
        let newer = self.flushing.iter().map(|flushing| &flushing.records);
        for records in newer.chain([&self.pending.records]) {
            for (at, record) in records.range(start..) {
                complete = complete && found.goes_on(*at);
                if !complete {
                    break;
                }
                if range.contains(&record.key) {
                    found.add(self, *at, record)?;
                }
            }
        }
        let through = if complete { to } else { found.through };
        Ok(PlannedEvents { through, events: found.events })
    }
}

struct Collected {
    prev_kv: bool,
    to: Revision,
    bytes_max: usize,
    bytes: usize,
    visited: usize,
    /// The last revision that was looked at.
    through: Revision,
    events: Vec<Event>,
}

impl Collected {
    /// Whether the scan should look at this record; it ends between revisions only.
    fn goes_on(&mut self, at: RevKey) -> bool {
        if at.main > self.to {
            self.through = self.to;
            return false;
        }
        let enough = self.bytes > self.bytes_max || self.visited >= SCAN_MAX;
        if at.main > self.through && enough {
            return false;
        }
        self.through = at.main;
        self.visited += 1;
        true
    }

    fn add(&mut self, state: &State, at: RevKey, record: &Record) -> Result<(), ReadFault> {
        let prev_kv = if self.prev_kv { state.load_replaced(&record.key, at)? } else { None };
        self.bytes += record.key.len() + record.value.len();
        let kind = record.event_kind();
        self.events.push(Event { kind, kv: record.key_value(at.main), prev_kv });
        Ok(())
    }
}

pub(super) fn key_value(key: Bytes, version: &Version) -> KeyValue {
    KeyValue {
        key,
        value: Bytes::new(),
        create_revision: version.create_revision,
        mod_revision: version.at.main,
        version: version.version,
        lease: version.lease,
    }
}

/// As `BTreeMap` wants it; an end before the start is an empty range, not a panic.
pub(super) fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let start = range.key.as_ref();
    match range.end.as_deref() {
        None => (Bound::Included(start), Bound::Included(start)),
        Some([0]) => (Bound::Included(start), Bound::Unbounded),
        Some(end) if end <= start => (Bound::Included(start), Bound::Excluded(start)),
        Some(end) => (Bound::Included(start), Bound::Excluded(end)),
    }
}
