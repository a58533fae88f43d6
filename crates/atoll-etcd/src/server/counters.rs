//! What is counted while calls are served, for the metrics.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use atoll_store::kv::{Error, OpResult, TxnResult};
use bytes::Bytes;
use http::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

/// The codes of gRPC by their numbers, as metrics call them.
pub(super) const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The calls that are told apart: service, method, and how many messages go which way.
pub(super) const METHODS: &[(&str, &str, &str)] = &[
    ("etcdserverpb.Auth", "AuthDisable", UNARY),
    ("etcdserverpb.Auth", "AuthEnable", UNARY),
    ("etcdserverpb.Auth", "AuthStatus", UNARY),
    ("etcdserverpb.Auth", "Authenticate", UNARY),
    ("etcdserverpb.Auth", "RoleAdd", UNARY),
    ("etcdserverpb.Auth", "RoleDelete", UNARY),
    ("etcdserverpb.Auth", "RoleGet", UNARY),
    ("etcdserverpb.Auth", "RoleGrantPermission", UNARY),
    ("etcdserverpb.Auth", "RoleList", UNARY),
    ("etcdserverpb.Auth", "RoleRevokePermission", UNARY),
    ("etcdserverpb.Auth", "UserAdd", UNARY),
    ("etcdserverpb.Auth", "UserChangePassword", UNARY),
    ("etcdserverpb.Auth", "UserDelete", UNARY),
    ("etcdserverpb.Auth", "UserGet", UNARY),
    ("etcdserverpb.Auth", "UserGrantRole", UNARY),
    ("etcdserverpb.Auth", "UserList", UNARY),
    ("etcdserverpb.Auth", "UserRevokeRole", UNARY),
    ("etcdserverpb.Cluster", "MemberAdd", UNARY),
    ("etcdserverpb.Cluster", "MemberList", UNARY),
    ("etcdserverpb.Cluster", "MemberPromote", UNARY),
    ("etcdserverpb.Cluster", "MemberRemove", UNARY),
    ("etcdserverpb.Cluster", "MemberUpdate", UNARY),
    ("etcdserverpb.KV", "Compact", UNARY),
    ("etcdserverpb.KV", "DeleteRange", UNARY),
    ("etcdserverpb.KV", "Put", UNARY),
    ("etcdserverpb.KV", "Range", UNARY),
    ("etcdserverpb.KV", "Txn", UNARY),
    ("etcdserverpb.Lease", "LeaseGrant", UNARY),
    ("etcdserverpb.Lease", "LeaseKeepAlive", BOTH_WAYS),
    ("etcdserverpb.Lease", "LeaseLeases", UNARY),
    ("etcdserverpb.Lease", "LeaseRevoke", UNARY),
    ("etcdserverpb.Lease", "LeaseTimeToLive", UNARY),
    ("etcdserverpb.Maintenance", "Alarm", UNARY),
    ("etcdserverpb.Maintenance", "Defragment", UNARY),
    ("etcdserverpb.Maintenance", "Downgrade", UNARY),
    ("etcdserverpb.Maintenance", "Hash", UNARY),
    ("etcdserverpb.Maintenance", "HashKV", UNARY),
    ("etcdserverpb.Maintenance", "MoveLeader", UNARY),
    ("etcdserverpb.Maintenance", "Snapshot", ANSWERS),
    ("etcdserverpb.Maintenance", "Status", UNARY),
    ("etcdserverpb.Watch", "Watch", BOTH_WAYS),
    ("grpc.health.v1.Health", "Check", UNARY),
    ("grpc.health.v1.Health", "Watch", ANSWERS),
    ("v3electionpb.Election", "Campaign", UNARY),
    ("v3electionpb.Election", "Leader", UNARY),
    ("v3electionpb.Election", "Observe", ANSWERS),
    ("v3electionpb.Election", "Proclaim", UNARY),
    ("v3electionpb.Election", "Resign", UNARY),
    ("v3lockpb.Lock", "Lock", UNARY),
    ("v3lockpb.Lock", "Unlock", UNARY),
];
const UNARY: &str = "unary";
const ANSWERS: &str = "server_stream";
const BOTH_WAYS: &str = "bidi_stream";

/// Of something that happens, or of what there is now.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more for as long as the guard lives.
    pub(super) fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }

    pub(super) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }
}

pub(super) struct Held<'a>(&'a Counter);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

/// Of one method.
#[derive(Debug, Default)]
pub(super) struct CallCounts {
    pub(super) started: Counter,
    /// By code.
    pub(super) handled: [Counter; CODES.len()],
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) ranges: Counter,
    pub(super) puts: Counter,
    pub(super) deletes: Counter,
    pub(super) txns: Counter,
    pub(super) proposals_pending: Counter,
    pub(super) proposals_failed: Counter,
    pub(super) watch_streams: Counter,
    pub(super) watchers: Counter,
    pub(super) health_success: Counter,
    pub(super) health_failures: Counter,
    pub(super) leader_changes: Counter,
    /// As [`METHODS`].
    pub(super) calls: Vec<CallCounts>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            ranges: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            proposals_pending: Counter::default(),
            proposals_failed: Counter::default(),
            watch_streams: Counter::default(),
            watchers: Counter::default(),
            health_success: Counter::default(),
            health_failures: Counter::default(),
            leader_changes: Counter::default(),
            calls: METHODS.iter().map(|_| CallCounts::default()).collect(),
        }
    }
}

impl Counters {
    /// What a transaction has done, or that it was not heard.
    pub(super) fn count(&self, done: &Result<TxnResult, Error>) {
        match done {
            Ok(done) => {
                let operations: u64 = done.responses.iter().map(|one| self.count_one(one)).sum();
                if operations > 1 {
                    self.txns.add(1);
                }
            }
            Err(
                Error::NoLeader
                | Error::NoQuorum { .. }
                | Error::Timeout { .. }
                | Error::Unavailable { .. },
            ) => self.proposals_failed.add(1),
            Err(_) => {}
        }
    }

    fn count_one(&self, result: &OpResult) -> u64 {
        match result {
            OpResult::Range(_) => self.ranges.add(1),
            OpResult::Put { .. } => self.puts.add(1),
            OpResult::Delete { .. } => self.deletes.add(1),
            OpResult::Txn(inner) => {
                return inner.responses.iter().map(|one| self.count_one(one)).sum();
            }
        }
        1
    }
}

/// A call that has begun. It is counted under its code when it ends, and as one that the client
/// gave up when nobody is there to hear its end.
pub(super) struct Call {
    counters: Arc<Counters>,
    /// Its place in [`METHODS`], until it has ended.
    method: Option<usize>,
}

impl Call {
    pub(super) fn begin(counters: &Arc<Counters>, path: &str) -> Self {
        let named = path.trim_start_matches('/').split_once('/');
        let method = named.and_then(|(service, method)| {
            METHODS.binary_search_by(|(one, name, _)| (*one, *name).cmp(&(service, method))).ok()
        });
        if let Some(counts) = method.and_then(|at| counters.calls.get(at)) {
            counts.started.add(1);
        }
        Self { counters: counters.clone(), method }
    }

    /// The end of a stream is what its last frame says.
    pub(super) fn answered(mut self, answer: Response<Body>) -> Response<Body> {
        if let Some(status) = answer.headers().get(Status::GRPC_STATUS) {
            self.end(Code::from_bytes(status.as_bytes()));
            return answer;
        }
        let kind = self.method.and_then(|at| METHODS.get(at)).map(|(_, _, kind)| *kind);
        if kind.is_none_or(|kind| kind == UNARY) {
            self.end(Code::Ok);
            return answer;
        }
        answer.map(|body| Body::new(Counted { body, call: self }))
    }

    fn end(&mut self, code: Code) {
        let counts = self.method.take().and_then(|at| self.counters.calls.get(at));
        let code = usize::try_from(i32::from(code)).unwrap_or_default();
        if let Some(counter) = counts.and_then(|counts| counts.handled.get(code)) {
            counter.add(1);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The answers of a stream, whose end is waited for.
struct Counted {
    body: Body,
    call: Call,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(status) = frame.trailers_ref().and_then(|all| all.get(Status::GRPC_STATUS))
        {
            let code = Code::from_bytes(status.as_bytes());
            self.call.end(code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_in_order() {
        assert!(METHODS.is_sorted());
    }

    #[test]
    fn a_call_that_nobody_waits_for_was_cancelled() {
        let counters = Arc::new(Counters::default());
        drop(Call::begin(&counters, "/etcdserverpb.KV/Put"));
        let mut call = Call::begin(&counters, "/etcdserverpb.KV/Put");
        call.end(Code::Unavailable);
        drop(call);
        drop(Call::begin(&counters, "/etcdserverpb.KV/Nothing"));
        let at = METHODS.iter().position(|(_, name, _)| *name == "Put").unwrap();
        let counts = &counters.calls[at];
        let counted: Vec<u64> = counts.handled.iter().map(Counter::get).collect();
        assert_eq!((counts.started.get(), counted[1], counted[14]), (2, 1, 1));
        assert_eq!(counted.iter().sum::<u64>(), 2);
    }
}
