//! Calls to whichever endpoint answers, and connections for watches.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::address::Address;
use super::connection::Connection;
use super::verdict::{Effect, Failure, Verdict, verdict};
use super::version::EtcdVersion;
use crate::proto::etcdserverpb as pb;

/// One connection carries no more, so that slow ones do not use up its window.
const WATCHES_PER_CONNECTION: usize = 16;
/// Between two rounds over all endpoints.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(super) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(super) const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub(super) const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub(super) const LEASE_REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub(super) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(super) const LEASE_TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
pub(super) const LEASE_LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
pub(super) const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// An answer that says who gave it.
pub(super) trait Answer: Message + Default + 'static {
    fn header(&self) -> Option<&pb::ResponseHeader>;
}

macro_rules! answers {
    ($($name:ident),*) => {
        $(impl Answer for pb::$name {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }
        })*
    };
}

answers!(
    RangeResponse,
    TxnResponse,
    CompactionResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    LeaseTimeToLiveResponse,
    LeaseLeasesResponse,
    StatusResponse,
    WatchResponse
);

/// A connection whose other end is known to be our etcd.
#[derive(Debug, Clone)]
struct Proven {
    endpoint: usize,
    connection: Connection,
}

#[derive(Debug)]
struct WatchConnection {
    proven: Proven,
    /// One count for each watch on it, and one for this.
    users: Arc<()>,
}

/// Holds its place on a connection.
#[derive(Debug)]
pub(super) struct WatchPlace {
    proven: Proven,
    _user: Arc<()>,
}

#[derive(Debug)]
pub(super) struct Caller {
    addresses: Vec<Address>,
    /// Where calls go, until it fails.
    current: AtomicUsize,
    calls: Mutex<Option<Proven>>,
    watches: Mutex<Vec<WatchConnection>>,
    request_timeout: Duration,
    retry_for: Duration,
    /// Zero until the first answer.
    etcd_id: AtomicU64,
    /// The newest revision that any answer named.
    seen: AtomicI64,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Caller {
    pub(super) fn new(
        addresses: Vec<Address>,
        request_timeout: Duration,
        retry_for: Duration,
    ) -> Self {
        Self {
            addresses,
            current: AtomicUsize::new(0),
            calls: Mutex::new(None),
            watches: Mutex::new(Vec::new()),
            request_timeout,
            retry_for,
            etcd_id: AtomicU64::new(0),
            seen: AtomicI64::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    pub(super) fn endpoints(&self) -> String {
        let texts: Vec<&str> = self.addresses.iter().map(|address| address.text.as_str()).collect();
        texts.join(", ")
    }

    /// The oldest version among the endpoints that answer.
    pub(super) async fn oldest_version(&self) -> Result<Option<EtcdVersion>, Failure> {
        let mut oldest: Option<EtcdVersion> = None;
        let mut last = None;
        for endpoint in 0..self.addresses.len() {
            match self.open(endpoint).await {
                Ok((status, _)) => {
                    let Some(version) = EtcdVersion::parse(&status.version) else {
                        return Ok(None);
                    };
                    oldest = Some(oldest.map_or(version, |known| known.min(version)));
                }
                // One that is another etcd's is worse than one that is away.
                Err(failed) if failed.verdict == Verdict::Refused => {
                    return Err(failed.into_failure());
                }
                Err(failed) => last = Some(failed),
            }
        }
        match (oldest, last) {
            (None, Some(failed)) => Err(failed.into_failure()),
            (oldest, _) => Ok(oldest),
        }
    }

    pub(super) async fn call<Q, A>(
        &self,
        effect: Effect,
        path: &'static str,
        request: Q,
    ) -> Result<A, Failure>
    where
        Q: Message + Clone + 'static,
        A: Answer,
    {
        let started = Instant::now();
        let deadline = started + self.request_timeout;
        let retry_until = started + self.retry_for;
        let mut backoff = BACKOFF_MIN;
        for attempt in 1_usize.. {
            let failed = match self.attempt(effect, path, request.clone(), deadline).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            let again = match (failed.verdict, effect) {
                (Verdict::Refused, _) => return Err(Failure::Refused(failed.status)),
                (Verdict::Unknown, Effect::Once) => {
                    return Err(Failure::Timeout { maybe_applied: true });
                }
                (Verdict::NotDone | Verdict::NoLeader, _) => Instant::now() < retry_until,
                (Verdict::Unknown, Effect::Repeatable) => Instant::now() < deadline,
            };
            if !again || self.stop.is_cancelled() {
                return Err(failed.into_failure());
            }
            if attempt.is_multiple_of(self.addresses.len()) {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
        Err(Failure::Timeout { maybe_applied: effect == Effect::Once })
    }

    async fn attempt<Q, A>(
        &self,
        effect: Effect,
        path: &'static str,
        request: Q,
        deadline: Instant,
    ) -> Result<A, Failed>
    where
        Q: Message + 'static,
        A: Answer,
    {
        let proven = self.for_calls().await?;
        // A read that one member does not answer may still be answered by another in time.
        let attempt = match effect {
            Effect::Once => deadline,
            Effect::Repeatable => deadline.min(Instant::now() + self.request_timeout / 3),
        };
        let called = timeout_at(attempt, exchange(&proven.connection, path, request)).await;
        let status = match called {
            Ok(Ok(answer)) => match self.check(&answer) {
                Ok(()) => return Ok(answer),
                Err(status) => status,
            },
            Ok(Err(status)) => status,
            Err(_elapsed) => Status::deadline_exceeded("it did not answer in time"),
        };
        let verdict = verdict(&status);
        if verdict != Verdict::Refused {
            self.leave(&proven);
        }
        Err(Failed { verdict, status })
    }

    /// Remembers the revision; an answer of another etcd is none.
    pub(super) fn check(&self, answer: &impl Answer) -> Result<(), Status> {
        let Some(header) = answer.header() else { return Ok(()) };
        let first = self.etcd_id.compare_exchange(
            0,
            header.cluster_id,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if first.is_err_and(|ours| ours != header.cluster_id) {
            return Err(Status::failed_precondition(format!(
                "the endpoints {} are not all of one etcd",
                self.endpoints()
            )));
        }
        self.seen.fetch_max(header.revision, Ordering::AcqRel);
        Ok(())
    }

    async fn for_calls(&self) -> Result<Proven, Failed> {
        let endpoint = self.current.load(Ordering::Acquire);
        let kept = self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(proven) = kept.filter(|kept| kept.endpoint == endpoint)
            && !proven.connection.is_closed()
        {
            return Ok(proven);
        }
        let proven = self.prove(endpoint).await?;
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) = Some(proven.clone());
        Ok(proven)
    }

    /// A place for one more watch.
    pub(super) async fn for_watch(&self) -> Result<WatchPlace, Failed> {
        let endpoint = self.current.load(Ordering::Acquire);
        if let Some(place) = self.free_place(endpoint) {
            return Ok(place);
        }
        let proven = self.prove(endpoint).await?;
        let users = Arc::new(());
        let place = WatchPlace { proven: proven.clone(), _user: users.clone() };
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.push(WatchConnection { proven, users });
        Ok(place)
    }

    fn free_place(&self, endpoint: usize) -> Option<WatchPlace> {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|kept| {
            !kept.proven.connection.is_closed() && Arc::strong_count(&kept.users) > 1
        });
        let free = watches.iter().find(|kept| {
            kept.proven.endpoint == endpoint
                && Arc::strong_count(&kept.users) <= WATCHES_PER_CONNECTION
        })?;
        Some(WatchPlace { proven: free.proven.clone(), _user: free.users.clone() })
    }

    /// The next call goes to the next endpoint.
    fn leave(&self, proven: &Proven) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.as_ref().is_some_and(|kept| kept.endpoint == proven.endpoint) {
            *calls = None;
        }
        drop(calls);
        self.pass_over(proven.endpoint);
    }

    pub(super) fn leave_watch(&self, place: &WatchPlace) {
        self.pass_over(place.proven.endpoint);
    }

    fn pass_over(&self, endpoint: usize) {
        let next = (endpoint + 1) % self.addresses.len();
        // Whoever was faster has passed it over already.
        let _passed =
            self.current.compare_exchange(endpoint, next, Ordering::AcqRel, Ordering::Acquire);
    }

    async fn prove(&self, endpoint: usize) -> Result<Proven, Failed> {
        match self.open(endpoint).await {
            Ok((_, connection)) => Ok(Proven { endpoint, connection }),
            Err(failed) => {
                self.pass_over(endpoint);
                Err(failed)
            }
        }
    }

    /// Connects, and sees that it is our etcd: a write must not go to another.
    async fn open(&self, endpoint: usize) -> Result<(pb::StatusResponse, Connection), Failed> {
        let address = &self.addresses[endpoint];
        let connection = Connection::open(address, &self.tasks, &self.stop)
            .await
            .map_err(|error| Failed::not_done(error.to_string()))?;
        let asked = unary(&connection, STATUS, pb::StatusRequest {});
        let status: pb::StatusResponse = match tokio::time::timeout(self.request_timeout / 3, asked)
            .await
        {
            Ok(Ok(status)) => status,
            Ok(Err(status)) => {
                return Err(match verdict(&status) {
                    verdict @ (Verdict::Refused | Verdict::NoLeader) => Failed { verdict, status },
                    // Asking for the status changes nothing.
                    Verdict::NotDone | Verdict::Unknown => {
                        Failed::not_done(format!("{}: {}", address.text, status.message()))
                    }
                });
            }
            Err(_elapsed) => {
                return Err(Failed::not_done(format!("{} is silent", address.text)));
            }
        };
        match self.check(&status) {
            Ok(()) => Ok((status, connection)),
            Err(status) => Err(Failed { verdict: Verdict::Refused, status }),
        }
    }

    /// One watch stream: what is sent, and what is received.
    pub(super) async fn watch(
        &self,
        place: &WatchPlace,
        requests: tokio_stream::wrappers::ReceiverStream<pb::WatchRequest>,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        stream(&place.proven.connection, WATCH, requests).await
    }
}

/// One attempt that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) verdict: Verdict,
    pub(super) status: Status,
}

impl Failed {
    fn not_done(reason: String) -> Self {
        Self { verdict: Verdict::NotDone, status: Status::unavailable(reason) }
    }

    /// For a call that may be repeated, or was certainly not carried out.
    pub(super) fn into_failure(self) -> Failure {
        match self.verdict {
            Verdict::Refused => Failure::Refused(self.status),
            Verdict::NoLeader => Failure::NoLeader,
            Verdict::NotDone => Failure::Unavailable {
                detail: format!("no endpoint of the etcd answers; {}", self.status.message()),
            },
            Verdict::Unknown => Failure::Timeout { maybe_applied: false },
        }
    }
}

fn client(connection: &Connection) -> Grpc<Connection> {
    Grpc::with_origin(connection.clone(), connection.origin.clone())
        .max_decoding_message_size(usize::MAX)
        .max_encoding_message_size(usize::MAX)
}

/// A member without a leader refuses at once instead of letting us wait.
fn requiring_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

/// A request and its answer; the first one where the answer is a stream.
async fn exchange<Q, A>(
    connection: &Connection,
    path: &'static str,
    request: Q,
) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    if path != LEASE_KEEP_ALIVE {
        return unary(connection, path, request).await;
    }
    let mut answers: Streaming<A> =
        stream(connection, path, futures::stream::iter([request])).await?;
    answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))
}

async fn unary<Q, A>(connection: &Connection, path: &'static str, request: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = client(connection);
    client.ready().await.map_err(|lost| Status::from_error(lost.into()))?;
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(requiring_leader(request), path, codec).await?.into_inner())
}

async fn stream<S, Q, A>(
    connection: &Connection,
    path: &'static str,
    requests: S,
) -> Result<Streaming<A>, Status>
where
    S: futures::Stream<Item = Q> + Send + 'static,
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = client(connection);
    client.ready().await.map_err(|lost| Status::from_error(lost.into()))?;
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.streaming(requiring_leader(requests), path, codec).await?.into_inner())
}
