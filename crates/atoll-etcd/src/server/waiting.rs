//! Who waits for a name: each has a key below it on a lease, and whose key is the oldest has the
//! name.
//!
//! etcd's clients do the same by themselves (its package `concurrency`): they, and who uses these
//! services, keep each other out.

use atoll_store::kv::{self, Error, EventKind, KeyRange};
use bytes::Bytes;
use futures::StreamExt as _;
use tonic::{Code, Request, Status};

use super::{Core, Shared, error};
use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::kv_server::Kv as _;
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::etcdserverpb::response_op::Response as Answer;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, TxnRequest, TxnResponse, request_op,
};
use crate::proto::mvccpb::KeyValue;

/// Seconds of a lease that a call needs and does not name: those of a session of etcd's clients.
const SESSION_TTL: i64 = 60;

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

/// A place that is given up with the call that waits in it.
pub(super) struct Waiting {
    core: Shared,
    place: Option<Place>,
}

impl Waiting {
    pub(super) fn new(core: &Shared, place: Place) -> Self {
        Self { core: core.clone(), place: Some(place) }
    }

    /// It is kept.
    pub(super) fn keep(mut self) {
        self.place = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        let core = self.core.clone();
        self.core.tasks.spawn(async move {
            if let Err(status) = core.leave(&place).await {
                tracing::warn!(key = ?place.key, %status, "a place goes with its lease only");
            }
        });
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
            0 => self.store.lease_grant(0, SESSION_TTL).await.map(|(id, _)| id),
            id => self.store.lease_keep_alive(id).await.map(|_| id),
        };
        match renewed {
            Err(Error::LeaseNotFound { .. }) => Ok(lease),
            other => other.map_err(|error| handed_on(error::status(&error))),
        }
    }

    /// Makes the key of `lease` below `name`, or finds it, with its value.
    pub(super) async fn enter(
        &self,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Entered, Status> {
        let mut key = below(name).key.to_vec();
        key.extend(format!("{lease:x}").bytes());
        let key = Bytes::from(key);
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let get = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let entered = self
            .commit(
                made_at(&key, 0),
                request_op::Request::RequestPut(put),
                Some(request_op::Request::RequestRange(get)),
            )
            .await?;
        let header = entered.header.unwrap_or_default();
        if entered.succeeded {
            let place = Place { key, since: header.revision };
            return Ok(Entered { place, header, known: None });
        }
        let known = match entered.responses.into_iter().next().and_then(|one| one.response) {
            Some(Answer::ResponseRange(read)) => read.kvs.into_iter().next(),
            _ => None,
        };
        let known = known.ok_or_else(|| Status::internal("a key is neither there nor made"))?;
        Ok(Entered {
            place: Place { key, since: known.create_revision },
            header,
            known: Some(known),
        })
    }

    /// `then` if `compare` holds.
    pub(super) async fn commit(
        &self,
        compare: Compare,
        then: request_op::Request,
        otherwise: Option<request_op::Request>,
    ) -> Result<TxnResponse, Status> {
        let op = |request| RequestOp { request: Some(request) };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![op(then)],
            failure: otherwise.into_iter().map(op).collect(),
        };
        Ok(self.txn(Request::new(txn)).await.map_err(handed_on)?.into_inner())
    }

    /// Gives a place up, unless it is another's by now.
    pub(super) async fn leave(&self, place: &Place) -> Result<TxnResponse, Status> {
        let delete = DeleteRangeRequest { key: place.key.clone(), ..DeleteRangeRequest::default() };
        self.commit(place.is_held(), request_op::Request::RequestDeleteRange(delete), None).await
    }

    /// Until nobody below `name` is before `place`; whether somebody was.
    pub(super) async fn turn(&self, name: &[u8], place: &Place) -> Result<bool, Status> {
        let mut waited = false;
        loop {
            let before = RangeRequest {
                max_create_revision: place.since - 1,
                ..by_age(name, SortOrder::Descend)
            };
            let read = self.read(before).await?;
            let Some(last) = read.kvs.into_iter().next() else { return Ok(waited) };
            waited = true;
            let revision = read.header.unwrap_or_default().revision;
            self.deletion(last.key, revision).await?;
        }
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

    /// `None` where the history has been compacted.
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
            Some(Err(Error::Compacted { .. })) => Ok(None),
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
