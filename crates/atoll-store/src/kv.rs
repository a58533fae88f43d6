//! The one way into a store: revisions, transactions, watches and leases, as etcd v3 defines them.
//!
//! [`KvStore`] is one keyspace. The cluster's objects and the applications' keys are two
//! keyspaces of one [`crate::embedded::EmbeddedStore`], each with its own revision.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::times::DiskTimes;

/// A point in a keyspace's history. An empty store is at revision 1.
pub type Revision = i64;
/// A lease's id; 0 is no lease.
pub type LeaseId = i64;
pub type Result<T> = std::result::Result<T, Error>;

/// One key at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Writes since the key was created; 1 on creation.
    pub version: i64,
    pub lease: LeaseId,
}

/// Which keys: one, or all from `key` up to and without `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    pub key: Bytes,
    /// `None` is the single key; the one-byte key `\0` is "to the end", as in etcd.
    pub end: Option<Bytes>,
}

impl KeyRange {
    pub fn single(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), end: None }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let key = prefix.into();
        let end = prefix_end(&key);
        Self { key, end: Some(end) }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            None => key == self.key,
            Some(end) if end.as_ref() == [0] => key >= self.key.as_ref(),
            Some(end) => key >= self.key.as_ref() && key < end.as_ref(),
        }
    }
}

/// The first key behind all that begin with `prefix`; `\0` when there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Bytes::from(end);
        }
    }
    Bytes::from_static(&[0])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Sees every write acknowledged before the call.
    #[default]
    Linearizable,
    /// May be stale; answered by this member alone.
    Serializable,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// `None` reads the present.
    pub revision: Option<Revision>,
    /// 0 is no limit.
    pub limit: usize,
    pub keys_only: bool,
    pub count_only: bool,
    pub consistency: Consistency,
}

impl RangeRequest {
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
            consistency: Consistency::Linearizable,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeResult {
    /// The keyspace's revision when it was read.
    pub revision: Revision,
    /// In key order.
    pub kvs: Vec<KeyValue>,
    /// All matches, whatever the limit.
    pub count: u64,
    pub more: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    ModRevision(Revision),
    CreateRevision(Revision),
    Version(i64),
    Value(Bytes),
    Lease(LeaseId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub relation: Relation,
    pub target: CompareTarget,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    pub prev_kv: bool,
}

/// A put on a key that exists, which keeps what is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateRequest {
    pub key: Bytes,
    pub value: Option<Bytes>,
    pub lease: Option<LeaseId>,
    pub prev_kv: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    /// Fails with [`Error::KeyNotFound`]; answered as a put.
    Update(UpdateRequest),
    Delete {
        range: KeyRange,
        prev_kv: bool,
    },
    Txn(Box<Txn>),
}

/// All of `success` when every compare holds, else all of `failure`; at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    Range(RangeResult),
    Put { prev_kv: Option<KeyValue> },
    Delete { deleted: u64, prev_kvs: Vec<KeyValue> },
    Txn(TxnResult),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnResult {
    /// The keyspace's revision after the transaction.
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<OpResult>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    pub range: KeyRange,
    /// The first revision to see; `None` is whatever comes next.
    pub start_revision: Option<Revision>,
    pub prev_kv: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// For a delete: the key and, as `mod_revision`, the revision of the delete.
    pub kv: KeyValue,
    pub prev_kv: Option<KeyValue>,
}

/// Whole revisions, in order. One with no events says how far this watch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Every event of the range up to this revision has been sent on this stream.
    pub revision: Revision,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    pub id: LeaseId,
    /// Seconds, as granted.
    pub ttl: i64,
    /// Seconds left; −1 when it has expired.
    pub remaining: i64,
    pub keys: Vec<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub revision: Revision,
    pub compacted_revision: Revision,
    pub raft_term: u64,
    pub raft_index: u64,
    pub applied_index: u64,
    /// Live bytes against the quota.
    pub live_bytes: u64,
    /// 0 where it is not known.
    pub quota_bytes: u64,
    /// Writes with content are refused, or those of the largest size would be; deletes and
    /// compaction never are.
    pub no_space: bool,
    /// What the store takes on this member's disk.
    pub disk_bytes: u64,
    /// Of these, without the log: what [`KvStore::defragment`] makes less.
    pub state_bytes: u64,
    pub is_leader: bool,
    /// What was compacted last has not been dropped yet.
    pub compacting: bool,
}

/// One kept version of a key, or its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRecord {
    /// Its `mod_revision` is the record's revision; of a deletion only the key is set besides.
    pub kv: KeyValue,
    /// Position within the revision.
    pub sub: u32,
    pub deletion: bool,
}

/// Everything that a keyspace keeps, as of one revision.
pub struct History {
    pub revision: Revision,
    pub compacted_revision: Revision,
    /// Id and seconds, as granted.
    pub leases: Vec<(LeaseId, i64)>,
    /// In the order of revisions; exactly what compaction leaves.
    pub records: BoxStream<'static, Result<Vec<HistoryRecord>>>,
}

/// A part of another store's history, to be continued in a keyspace at the revisions it had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportPiece {
    /// The keyspace's revision must be this: nobody has written in between, and no piece comes
    /// twice. 1 is a keyspace that was never written to.
    pub after: Revision,
    /// All later than `after`, in the order of revisions; a revision is never parted.
    pub records: Vec<HistoryRecord>,
    /// Of the last piece.
    pub end: Option<ImportEnd>,
}

/// How a history that was continued goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportEnd {
    pub revision: Revision,
    pub compacted_revision: Revision,
    /// Id and seconds. They begin anew; one that is there already stays as it is.
    pub leases: Vec<(LeaseId, i64)>,
}

/// Why a call did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("revision {requested} has been compacted; the oldest kept is {compacted}")]
    Compacted { requested: Revision, compacted: Revision },
    #[error("revision {requested} is in the future; the store is at {current}")]
    Future { requested: Revision, current: Revision },
    #[error("the store has no leader")]
    NoLeader,
    /// Writes and linearizable reads need a majority; stale reads go on.
    #[error(
        "this server sees {seen} of {voters} servers, a majority is {}; start or reach the others, or ask for a stale read",
        .voters / 2 + 1
    )]
    NoQuorum { seen: usize, voters: usize },
    #[error("the store did not answer in time{}", if *.maybe_applied { "; the write may have happened" } else { "" })]
    Timeout { maybe_applied: bool },
    #[error("no space: {detail}")]
    NoSpace { detail: String },
    #[error("the request has {bytes} bytes; the limit is {limit_bytes}")]
    TooLarge { bytes: u64, limit_bytes: u64 },
    #[error("a transaction may not put one key twice")]
    DuplicateKey,
    #[error("the transaction has {operations} operations; the limit is {limit}")]
    TooManyOperations { operations: usize, limit: usize },
    #[error("lease {id} does not exist")]
    LeaseNotFound { id: LeaseId },
    #[error("lease {id} exists already")]
    LeaseExists { id: LeaseId },
    #[error("a lease of {ttl} s is too long")]
    LeaseTtlTooLarge { ttl: i64 },
    #[error("the key is empty")]
    EmptyKey,
    #[error("a key whose value or lease is to be kept does not exist")]
    KeyNotFound,
    #[error("the watch fell too far behind and was ended")]
    WatchTooSlow,
    #[error("the store is stopping or has stopped: {detail}")]
    Unavailable { detail: String },
}

impl Error {
    /// Whether the same call may succeed a little later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::NoLeader
                | Self::NoQuorum { .. }
                | Self::Timeout { .. }
                | Self::Unavailable { .. }
        )
    }
}

/// One keyspace. An acknowledged write is on the disks of a quorum.
#[async_trait]
pub trait KvStore: Send + Sync {
    async fn range(&self, request: RangeRequest) -> Result<RangeResult>;
    async fn txn(&self, txn: Txn) -> Result<TxnResult>;
    /// Ends with an error, or when the store stops. Dropping the stream cancels the watch.
    fn watch(&self, request: WatchRequest) -> BoxStream<'static, Result<WatchBatch>>;
    /// Makes every open watch send a progress batch once it has reached the present;
    /// returns the present revision.
    async fn request_progress(&self) -> Result<Revision>;
    /// A watch that belongs to others: what [`Self::request_progress_of`] asks of one of a group
    /// is asked of all of it. Groups are numbers that callers choose, not 0.
    fn watch_of(
        &self,
        request: WatchRequest,
        group: u64,
    ) -> BoxStream<'static, Result<WatchBatch>> {
        let _ = group;
        self.watch(request)
    }
    /// The same of one group's watches, up to what this member has: it asks no other. Not every
    /// store tells them apart.
    async fn request_progress_of(&self, group: u64) -> Result<Revision> {
        let _ = group;
        self.request_progress().await
    }
    async fn compact(&self, revision: Revision) -> Result<()>;
    /// `id` 0 lets the store choose. `ttl` in seconds. Returns the id and the ttl granted.
    async fn lease_grant(&self, id: LeaseId, ttl: i64) -> Result<(LeaseId, i64)>;
    /// Returns the new remaining seconds.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64>;
    async fn lease_revoke(&self, id: LeaseId) -> Result<()>;
    async fn lease_info(&self, id: LeaseId) -> Result<LeaseInfo>;
    /// Those that end first come first, as far as this member knows.
    async fn leases(&self) -> Result<Vec<LeaseId>>;
    async fn status(&self) -> Result<Status>;
    /// How long this member's disk takes; not every store has one of its own.
    fn disk_times(&self) -> Option<DiskTimes> {
        None
    }
    /// Gives back what this member's state file takes of the disk and does not need, of both
    /// keyspaces. It serves meanwhile, and a caller that does not wait for the end stops nothing.
    async fn defragment(&self) -> Result<()> {
        let detail = "this store gives its disk space back by means of its own".to_owned();
        Err(Error::Unavailable { detail })
    }
    /// A consistent copy of the whole keyspace, in chunks, in a versioned format.
    async fn snapshot(&self) -> Result<BoxStream<'static, Result<Bytes>>>;
    /// Not every store can tell: an etcd shows no positions within a revision.
    async fn history(&self) -> Result<History> {
        Err(Error::Unavailable { detail: "this store does not show its history".to_owned() })
    }
    /// Continues the history with what another store had; returns the new revision. An etcd has
    /// means of its own for that.
    async fn import(&self, piece: ImportPiece) -> Result<Revision> {
        let after = piece.after;
        let detail = format!("this store takes no history of others after revision {after}");
        Err(Error::Unavailable { detail })
    }
}
