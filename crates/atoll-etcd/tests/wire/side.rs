//! One of two servers: takes a step, and what it answers is written down with everything in it
//! but which server it was.

use std::net::SocketAddr;

use atoll_etcd::proto::etcdserverpb::*;
use tonic::{Response, Status};

use crate::plan::Step;
use crate::raw::Raw;
use crate::watching::Watching;

/// An answer in words, and the revision that it names.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) revision: Option<i64>,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.revision.is_some()
    }
}

trait Headed: std::fmt::Debug {
    fn header_mut(&mut self) -> &mut Option<ResponseHeader>;

    /// What differs from run to run is made the same.
    fn level(&mut self) {}
}

macro_rules! headed {
    ($($name:ident),*) => {
        $(impl Headed for $name {
            fn header_mut(&mut self) -> &mut Option<ResponseHeader> {
                &mut self.header
            }
        })*
    };
}
headed!(
    RangeResponse,
    PutResponse,
    DeleteRangeResponse,
    TxnResponse,
    CompactionResponse,
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseKeepAliveResponse,
    MemberAddResponse,
    MemberRemoveResponse,
    MemberUpdateResponse,
    MemberPromoteResponse,
    MoveLeaderResponse,
    AuthEnableResponse,
    AuthDisableResponse,
    AuthenticateResponse,
    AuthUserListResponse,
    AuthUserGetResponse,
    AuthRoleListResponse,
    AuthRoleGetResponse
);

impl Headed for LeaseTimeToLiveResponse {
    fn header_mut(&mut self) -> &mut Option<ResponseHeader> {
        &mut self.header
    }

    /// Both clocks run, and an etcd names the keys in any order.
    fn level(&mut self) {
        self.ttl = self.ttl.signum();
        self.keys.sort_unstable();
    }
}

impl Headed for HashKvResponse {
    fn header_mut(&mut self) -> &mut Option<ResponseHeader> {
        &mut self.header
    }

    /// Older releases do not have it.
    fn level(&mut self) {
        self.hash_revision = 0;
    }
}

impl Headed for AlarmResponse {
    fn header_mut(&mut self) -> &mut Option<ResponseHeader> {
        &mut self.header
    }

    /// 3.4 has none in some.
    fn level(&mut self) {
        self.header = None;
    }
}

impl Headed for LeaseLeasesResponse {
    fn header_mut(&mut self) -> &mut Option<ResponseHeader> {
        &mut self.header
    }

    /// An etcd has them in the order in which they end.
    fn level(&mut self) {
        self.leases.sort_unstable_by_key(|lease| lease.id);
    }
}

fn told<T: Headed>(answer: Result<Response<T>, Status>) -> Answer {
    let mut answer = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let text = format!("{:?}: {}", status.code(), status.message());
            return Answer { text, revision: None };
        }
    };
    answer.level();
    let Some(header) = answer.header_mut().as_mut() else {
        return Answer { text: format!("{answer:?}"), revision: Some(0) };
    };
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    let revision = header.revision;
    *header = ResponseHeader { revision, ..ResponseHeader::default() };
    Answer { text: format!("{answer:?}"), revision: Some(revision) }
}

pub(crate) struct Side {
    pub(crate) raw: Raw,
    pub(crate) watching: Option<Watching>,
}

impl Side {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self { raw: Raw::open(address).await, watching: None }
    }

    /// What a call of another service answers.
    pub(crate) async fn ask<T, F>(&mut self, call: F) -> Answer
    where
        T: HeadedAnswer,
        F: AsyncFnOnce(&mut Raw) -> Result<Response<T>, Status>,
    {
        T::told(call(&mut self.raw).await)
    }

    pub(crate) async fn take(&mut self, step: &Step) -> Answer {
        let Raw { kv, lease, maintenance, .. } = &mut self.raw;
        match step.clone() {
            Step::Range(request) => told(kv.range(request).await),
            Step::Put(request) => told(kv.put(request).await),
            Step::Delete(request) => told(kv.delete_range(request).await),
            Step::Txn(request) => told(kv.txn(request).await),
            Step::Compact(request) => told(kv.compact(request).await),
            Step::Grant(request) => told(lease.lease_grant(request).await),
            Step::Revoke(id) => told(lease.lease_revoke(LeaseRevokeRequest { id }).await),
            Step::KeepAlive(id) => self.keep_alive(id).await,
            Step::TimeToLive(request) => told(lease.lease_time_to_live(request).await),
            Step::Leases => told(lease.lease_leases(LeaseLeasesRequest {}).await),
            Step::HashKv(revision) => told(maintenance.hash_kv(HashKvRequest { revision }).await),
            Step::Watch(_) | Step::CancelWatch(_) | Step::WatchProgress => {
                unreachable!("watches are not calls")
            }
        }
    }

    async fn keep_alive(&mut self, id: i64) -> Answer {
        let requests = futures::stream::iter([LeaseKeepAliveRequest { id }]);
        let answered = match self.raw.lease.lease_keep_alive(requests).await {
            Ok(stream) => stream.into_inner().message().await,
            Err(status) => Err(status),
        };
        told(answered.map(|answer| Response::new(answer.expect("an answer"))))
    }

    pub(crate) async fn revision(&mut self) -> i64 {
        let request = RangeRequest { key: "nothing".into(), ..RangeRequest::default() };
        self.take(&Step::Range(request)).await.revision.expect("it can be read")
    }
}

/// Answers that [`Side::ask`] can take.
pub(crate) trait HeadedAnswer: Sized {
    fn told(answer: Result<Response<Self>, Status>) -> Answer;
}

impl<T: Headed> HeadedAnswer for T {
    fn told(answer: Result<Response<Self>, Status>) -> Answer {
        told(answer)
    }
}
