//! Calls of the etcd v3 API to one server, from inside of its network namespace.

use super::{convert, net_connect::Connector, servers::ETCD_PORT};
use atoll_etcd::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use atoll_history::{Ask, Found, How, Outcome, Range};
use http::Uri;
use hyper_util::{
    client::legacy::{Client, Error as ClientError},
    rt::TokioExecutor,
};
use std::{error::Error as _, path::PathBuf, time::Duration};
use tonic::{Code, Status, Streaming, body::Body};

/// A call without an answer after this time has an unknown outcome.
pub(super) const CALL_MAX: Duration = Duration::from_secs(3);
/// Questions about the cluster.
const ASK_MAX: Duration = Duration::from_millis(500);
/// Everything at once may be a lot.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Unread frames of watches end a connection when they fill half of this.
const WINDOW_BYTES: u32 = 16 << 20;

/// Clones share a connection, which is made when it is needed.
#[derive(Clone)]
pub(super) struct Link {
    client: Client<Connector, Body>,
}

impl Link {
    pub(super) fn new(place: PathBuf) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .http2_only(true)
            .http2_initial_connection_window_size(WINDOW_BYTES)
            .http2_initial_stream_window_size(WINDOW_BYTES)
            // A write is never sent twice.
            .retry_canceled_requests(false);
        Self { client: builder.build(Connector { place, port: ETCD_PORT }) }
    }

    fn kv(&self) -> KvClient<Client<Connector, Body>> {
        KvClient::with_origin(self.client.clone(), origin())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn watches(&self) -> WatchClient<Client<Connector, Body>> {
        WatchClient::with_origin(self.client.clone(), origin())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn leases(&self) -> LeaseClient<Client<Connector, Body>> {
        LeaseClient::with_origin(self.client.clone(), origin())
    }

    fn maintenance(&self) -> MaintenanceClient<Client<Connector, Body>> {
        MaintenanceClient::with_origin(self.client.clone(), origin())
    }

    /// Does what is asked; the puts are on this lease, if it is not 0.
    pub(super) async fn carry_out(&self, ask: &Ask, lease: i64) -> Outcome {
        let done = match ask {
            Ask::Read { range, how } => self.read(range, *how).await,
            Ask::Write { guard, puts, delete } => {
                self.write(guard.as_ref(), puts, delete.as_deref(), lease).await
            }
        };
        done.unwrap_or_else(|status| outcome_of(&status))
    }

    async fn write(
        &self,
        guard: Option<&(String, i64)>,
        puts: &[(String, String)],
        delete: Option<&str>,
        lease: i64,
    ) -> Result<Outcome, Status> {
        let done = |header: Option<pb::ResponseHeader>, succeeded, deleted| Outcome::Written {
            revision: header.map_or(0, |header| header.revision),
            succeeded,
            deleted,
        };
        match (guard, puts, delete) {
            (None, [(key, value)], None) => {
                let put = convert::put(key, value, lease);
                let answer = within(CALL_MAX, self.kv().put(put)).await?;
                Ok(done(answer.header, true, 0))
            }
            (None, [], Some(key)) => {
                let delete = convert::delete(key);
                let answer = within(CALL_MAX, self.kv().delete_range(delete)).await?;
                Ok(done(answer.header, true, answer.deleted.unsigned_abs()))
            }
            _ => {
                let txn = convert::transaction(guard, puts, delete, lease);
                let answer = within(CALL_MAX, self.kv().txn(txn)).await?;
                Ok(done(answer.header, answer.succeeded, convert::deleted(&answer)))
            }
        }
    }

    async fn read(&self, range: &Range, how: How) -> Result<Outcome, Status> {
        let (revision, found) = self.range(range, how).await?;
        Ok(Outcome::Found { revision, found })
    }

    pub(super) async fn range(&self, range: &Range, how: How) -> Result<(i64, Vec<Found>), Status> {
        let answer = within(CALL_MAX, self.kv().range(convert::range(range, how))).await?;
        let found = answer.kvs.iter().map(convert::found).collect();
        Ok((answer.header.map_or(0, |header| header.revision), found))
    }

    /// By a linearizable read.
    pub(super) async fn revision(&self) -> Result<i64, Status> {
        Ok(self.range(&Range::Key("none".to_owned()), How::Fresh).await?.0)
    }

    pub(super) async fn compact(&self, revision: i64) -> Result<(), Status> {
        let request = pb::CompactionRequest { revision, physical: false };
        within(CALL_MAX, self.kv().compact(request)).await.map(|_| ())
    }

    pub(super) async fn grant(&self, ttl: i64) -> Result<i64, Status> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        Ok(within(CALL_MAX, self.leases().lease_grant(request)).await?.id)
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<(), Status> {
        let request = pb::LeaseRevokeRequest { id };
        within(CALL_MAX, self.leases().lease_revoke(request)).await.map(|_| ())
    }

    /// Its time to live from now on; 0 when it is gone.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<i64, Status> {
        let asks = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut leases = self.leases();
        let mut answers = within(CALL_MAX, leases.lease_keep_alive(asks)).await?;
        let answer = tokio::time::timeout(CALL_MAX, answers.message()).await;
        let answer = answer.map_err(|elapsed| Status::deadline_exceeded(elapsed.to_string()))??;
        answer.map(|answer| answer.ttl).ok_or_else(|| Status::unavailable("the stream ended"))
    }

    pub(super) async fn watch(
        &self,
        asks: tokio_stream::wrappers::ReceiverStream<pb::WatchRequest>,
    ) -> Result<Streaming<pb::WatchResponse>, Status> {
        within(CALL_MAX, self.watches().watch(asks)).await
    }

    async fn status(&self) -> Result<pb::StatusResponse, Status> {
        within(ASK_MAX, self.maintenance().status(pb::StatusRequest {})).await
    }

    /// Whether it says that it leads itself.
    pub(super) async fn leads(&self) -> Option<bool> {
        let status = self.status().await.ok()?;
        Some(status.header.is_some_and(|header| header.member_id == status.leader))
    }

    pub(super) async fn member_id(&self) -> Option<u64> {
        Some(self.status().await.ok()?.header?.member_id)
    }

    /// The others are asked to let this one lead.
    pub(super) async fn move_leader(&self, to: u64) -> Result<(), Status> {
        let request = pb::MoveLeaderRequest { target_id: to };
        within(CALL_MAX, self.maintenance().move_leader(request)).await.map(|_| ())
    }

    /// A number over the whole keyspace, at the revision up to which it was counted.
    pub(super) async fn hash(&self, revision: i64) -> Result<u32, Status> {
        let request = pb::HashKvRequest { revision };
        Ok(within(CALL_MAX, self.maintenance().hash_kv(request)).await?.hash)
    }

    pub(super) async fn voters(&self) -> Option<usize> {
        use pb::cluster_client::ClusterClient;
        let mut cluster = ClusterClient::with_origin(self.client.clone(), origin());
        let request = pb::MemberListRequest { linearizable: false };
        let members = within(ASK_MAX, cluster.member_list(request)).await.ok()?.members;
        Some(members.iter().filter(|member| !member.is_learner).count())
    }
}

fn origin() -> Uri {
    Uri::from_static("http://127.0.0.1:2379")
}

/// The deadline is kept here, since the server may hang.
async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(time, call).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(elapsed) => Err(Status::deadline_exceeded(elapsed.to_string())),
    }
}

/// Only some errors say that a write has not happened and will not.
fn outcome_of(status: &Status) -> Outcome {
    if was_never_sent(status) {
        return Outcome::Refused;
    }
    let text = status.message();
    match status.code() {
        Code::Unavailable if text.contains("no leader") || text.contains("a majority is") => {
            Outcome::Refused
        }
        Code::ResourceExhausted
        | Code::InvalidArgument
        | Code::NotFound
        | Code::FailedPrecondition
        | Code::OutOfRange => Outcome::Refused,
        _ => Outcome::Unknown,
    }
}

fn was_never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.downcast_ref::<ClientError>().is_some_and(ClientError::is_connect) {
            return true;
        }
        source = error.source();
    }
    false
}
