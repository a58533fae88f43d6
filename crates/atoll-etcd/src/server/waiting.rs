//! Who waits for a name: each has a key below it on a lease, and whose key is the oldest has the
//! name.
//!
//! etcd's clients do the same by themselves (its package `concurrency`): they, and who uses these
//! services, keep each other out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_store::kv::{self, Error, EventKind, KeyRange};
use bytes::Bytes;
use futures::StreamExt as _;
use tonic::{Code, Request, Status};

use super::maintenance::Effect;
use super::{Core, Shared, error};
use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_server::Kv as _;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as Answer;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;

/// Seconds of a lease that a call needs and does not name: those of a session of etcd's clients.
const SESSION_TTL: i64 = 60;
/// A place that cannot be given up is tried again after this, and then less and less often.
const LEAVE_AGAIN_AFTER: Duration = Duration::from_millis(100);
const LEAVE_AGAIN_MAX: Duration = Duration::from_secs(5);
/// A call whose key is just being deleted for an earlier one looks again after this.
const ENTER_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The keys of those who wait for `name`.
pub(super) fn below(name: &[u8]) -> KeyRange {
    KeyRange::prefix([name, b"/"].concat())
}

/// The key of one who waits.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) key: Bytes,
    /// The revision at which the key was made: the order in which they come to their turn.
    pub(super) since: i64,
}

impl Place {
    /// Whether the key is still the one that was made then.
    pub(super) fn is_held(&self) -> Compare {
        made_at(&self.key, self.since)
    }
}

/// The calls of this server that wait in a place, or have come to their turn in it.
#[derive(Debug, Default)]
struct Calls {
    waiting: usize,
    /// One of them made the key: it is theirs to delete.
    made: bool,
    /// One of them was told that it has the name.
    won: bool,
    /// The key is being deleted: who finds it now has not found a place.
    leaving: bool,
}

/// All places in which somebody waits, by key and revision.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<HashMap<(Bytes, i64), Calls>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Bytes, i64), Calls>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits in a place. The key that was made for it goes with the last of the calls that
/// wait there, when none of them came to its turn.
pub(super) struct Waiting {
    core: Shared,
    place: Place,
}

impl Waiting {
    /// `None` where the place is being given up.
    fn new(core: &Shared, place: Place, made: bool) -> Option<Self> {
        let mut places = core.places.lock();
        let calls = places.entry((place.key.clone(), place.since)).or_default();
        if calls.leaving {
            return None;
        }
        calls.waiting += 1;
        calls.made |= made;
        drop(places);
        Some(Self { core: core.clone(), place })
    }

    /// The caller is told that it has the name.
    pub(super) fn won(self) {
        let mut places = self.core.places.lock();
        if let Some(calls) = places.get_mut(&(self.place.key.clone(), self.place.since)) {
            calls.won = true;
        }
    }

    /// Whether the place is to be given up: this was the last call, and none has the name.
    fn end(&self) -> bool {
        let mut places = self.core.places.lock();
        let key = (self.place.key.clone(), self.place.since);
        let Some(calls) = places.get_mut(&key) else { return false };
        calls.waiting -= 1;
        if calls.waiting > 0 {
            return false;
        }
        calls.leaving = calls.made && !calls.won;
        let leaves = calls.leaving;
        if !leaves {
            places.remove(&key);
        }
        leaves
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.end() {
            let (core, place) = (self.core.clone(), self.place.clone());
            self.core.tasks.spawn(async move {
                core.surely_leave(&place).await;
                core.places.lock().remove(&(place.key, place.since));
            });
        }
    }
}

/// What a call was refused with that one of these services made: an etcd's services are clients of
/// their own server, and hand on the text alone. A caller may try again what is for a while only.
pub(super) fn handed_on(refused: Status) -> Status {
    match refused.code() {
        Code::Unavailable | Code::Internal => refused,
        _ => Status::unknown(refused.message()),
    }
}

impl Shared {
    /// The lease of a call, renewed once; a new one where it names none. Whether one that is named
    /// exists is found when a key is put on it.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        let renewed = match lease {
            0 => {
                self.check_alarms(Effect::Grows).map_err(handed_on)?;
                self.store.lease_grant(0, SESSION_TTL).await.map(|(id, _)| id)
            }
            id => self.store.lease_keep_alive(id).await.map(|_| id),
        };
        match renewed {
            Err(Error::LeaseNotFound { .. }) => Ok(lease),
            other => other.map_err(|error| handed_on(error::status(&error))),
        }
    }

    /// Makes the key of `lease` below `name`, or finds it. A call that is given up meanwhile
    /// leaves no key behind.
    pub(super) async fn enter(
        &self,
        name: &Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Entered, Status> {
        let (shared, name) = (self.clone(), name.clone());
        let entering = self.tasks.spawn(async move {
            loop {
                if let Some(entered) = shared.enter_now(&name, lease, value.clone()).await? {
                    return Ok(entered);
                }
                tokio::time::sleep(ENTER_AGAIN_AFTER).await;
            }
        });
        entering.await.map_err(|error| Status::internal(error.to_string()))?
    }

    /// `None` while the key of an earlier call is being deleted.
    async fn enter_now(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Option<Entered>, Status> {
        let key = key_of(name, lease);
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let oldest = by_age(name, SortOrder::Ascend);
        let done = self
            .commit(
                made_at(&key, 0),
                &[Op::RequestPut(put), Op::RequestRange(oldest.clone())],
                &[Op::RequestRange(get), Op::RequestRange(oldest)],
            )
            .await?;
        let header = done.header.unwrap_or_default();
        let mut found = done.responses.into_iter().map(|one| match one.response {
            Some(Answer::ResponseRange(read)) => read.kvs.into_iter().next(),
            _ => None,
        });
        let (known, first) = (found.next().flatten(), found.next().flatten());
        let since = match (&known, done.succeeded) {
            (_, true) => header.revision,
            (Some(known), false) => known.create_revision,
            (None, false) => return Err(Status::internal("a key is neither there nor made")),
        };
        let place = Place { key, since };
        let Some(waiting) = Waiting::new(self, place.clone(), done.succeeded) else {
            return Ok(None);
        };
        // Before a key that was just made there may be none at all.
        let is_first = first.is_none_or(|first| first.create_revision == since);
        Ok(Some(Entered { place, header, known, is_first, waiting }))
    }

    /// `then` if `compare` holds.
    pub(super) async fn commit(
        &self,
        compare: Compare,
        then: &[Op],
        otherwise: &[Op],
    ) -> Result<TxnResponse, Status> {
        let ops = |ops: &[Op]| {
            ops.iter().map(|op| RequestOp { request: Some(op.clone()) }).collect::<Vec<_>>()
        };
        let (success, failure) = (ops(then), ops(otherwise));
        let txn = TxnRequest { compare: vec![compare], success, failure };
        Ok(self.txn(Request::new(txn)).await.map_err(handed_on)?.into_inner())
    }

    /// Gives a place up, unless it is another's by now.
    pub(super) async fn leave(&self, place: &Place) -> Result<TxnResponse, Status> {
        let delete = DeleteRangeRequest { key: place.key.clone(), ..DeleteRangeRequest::default() };
        self.commit(place.is_held(), &[Op::RequestDeleteRange(delete)], &[]).await
    }

    /// Tries until it is done or the server stops: others wait behind the key.
    async fn surely_leave(&self, place: &Place) {
        let mut pause = LEAVE_AGAIN_AFTER;
        while let Err(status) = self.leave(place).await {
            tracing::debug!(key = ?place.key, %status, "a place is not given up yet");
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LEAVE_AGAIN_MAX);
        }
    }

    /// Until nobody below `name` is before the place; `None` where the place is lost by then, with
    /// its lease. The header is that of the moment at which it was known.
    pub(super) async fn turn(
        &self,
        name: &[u8],
        entered: &Entered,
    ) -> Result<Option<ResponseHeader>, Status> {
        if entered.is_first {
            return Ok(Some(entered.header));
        }
        let place = &entered.place;
        loop {
            let before = RangeRequest {
                max_create_revision: place.since - 1,
                ..by_age(name, SortOrder::Descend)
            };
            let read = self.read(before).await?;
            let Some(last) = read.kvs.into_iter().next() else { break };
            let revision = read.header.unwrap_or_default().revision;
            self.deletion(last.key, revision).await?;
        }
        let own = RangeRequest { key: place.key.clone(), ..RangeRequest::default() };
        let read = self.read(own).await?;
        let is_held = read.kvs.iter().any(|kv| kv.create_revision == place.since);
        Ok(read.header.filter(|_| is_held))
    }

    /// Who has `name`.
    pub(super) async fn oldest(&self, name: &[u8]) -> Result<RangeResponse, Status> {
        self.read(by_age(name, SortOrder::Ascend)).await
    }

    pub(super) async fn read(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.range(Request::new(request)).await.map_err(handed_on)?.into_inner())
    }
}

impl Core {
    /// Until the key is deleted, or its history: then it has to be looked at again.
    async fn deletion(&self, key: Bytes, from: i64) -> Result<(), Status> {
        let mut told = self.changes(KeyRange::single(key), from);
        loop {
            let Some(batch) = self.next_of(&mut told).await? else { return Ok(()) };
            if batch.events.iter().any(|event| event.kind == EventKind::Delete) {
                return Ok(());
            }
        }
    }

    pub(super) fn changes(&self, range: KeyRange, from: i64) -> Changes {
        let start_revision = Some(from);
        self.store.watch(kv::WatchRequest { range, start_revision, prev_kv: false })
    }

    /// `None` where the watch has to begin again with what there is now: its history has been
    /// compacted, or who looks is slow.
    pub(super) async fn next_of(
        &self,
        changes: &mut Changes,
    ) -> Result<Option<kv::WatchBatch>, Status> {
        let next = tokio::select! {
            next = changes.next() => next,
            () = self.stop.cancelled() => None,
        };
        match next {
            Some(Ok(batch)) => Ok(Some(batch)),
            Some(Err(Error::Compacted { .. } | Error::WatchTooSlow)) => Ok(None),
            Some(Err(error)) => Err(error::status(&error)),
            None => Err(error::STOPPED.into()),
        }
    }
}

pub(super) type Changes = futures::stream::BoxStream<'static, kv::Result<kv::WatchBatch>>;

/// What came of entering.
pub(super) struct Entered {
    pub(super) place: Place,
    pub(super) header: ResponseHeader,
    /// What was there already.
    pub(super) known: Option<KeyValue>,
    /// Nobody was before it, in the same moment.
    is_first: bool,
    pub(super) waiting: Waiting,
}

/// As etcd's clients name it: the lease in hexadecimal.
fn key_of(name: &[u8], lease: i64) -> Bytes {
    let mut key = below(name).key.to_vec();
    let sign = if lease < 0 { "-" } else { "" };
    key.extend(format!("{sign}{:x}", lease.unsigned_abs()).bytes());
    key.into()
}

fn made_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        key: key.clone(),
        target: CompareTarget::Create.into(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// The first of those below `name`, in that order of their age.
fn by_age(name: &[u8], order: SortOrder) -> RangeRequest {
    let range = below(name);
    RangeRequest {
        key: range.key,
        range_end: range.end.unwrap_or_default(),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}
