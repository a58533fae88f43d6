//! The Maintenance service: what operators ask a server.

use std::pin::Pin;

use atoll_store::kv;
use futures::Stream;
use tonic::{Request, Response, Status};

use super::hash::{self, HistoryHash};
use super::{Core, ETCD_VERSION, Shared, error, snapshot};
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};

/// The version of etcd whose files a snapshot has.
pub(super) const STORAGE_VERSION: &str = "3.6.0";

type Snapshots = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

impl Core {
    async fn hash(&self, at: i64) -> Result<HistoryHash, Status> {
        let hashed = hash::history_hash(self.store.as_ref(), at).await;
        hashed.map_err(|error| error::status(&error))
    }

    /// What the store says is up; it ends by itself.
    fn alarms(&self, status: &kv::Status) -> Vec<AlarmMember> {
        let member_id = self.config.member_id;
        let up =
            status.no_space.then(|| AlarmMember { member_id, alarm: AlarmType::Nospace.into() });
        up.into_iter().collect()
    }

    async fn store_status(&self) -> Result<kv::Status, Status> {
        self.store.status().await.map_err(|error| error::status(&error))
    }
}

impl AlarmRequest {
    /// 0 and `NONE` stand for all.
    fn selects(&self, alarm: &AlarmMember) -> bool {
        self.alarm == i32::from(AlarmType::None) || self.alarm == alarm.alarm
    }
}

#[tonic::async_trait]
impl Maintenance for Shared {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let asked = request.get_ref();
        let alarms = match AlarmAction::try_from(asked.action) {
            Ok(AlarmAction::Get) => {
                let alarms = self.alarms(&self.store_status().await?);
                alarms.into_iter().filter(|one| asked.selects(one)).collect()
            }
            // One that has a cause stays; one that has none is not up.
            Ok(AlarmAction::Deactivate) => Vec::new(),
            Ok(AlarmAction::Activate) | Err(_) => return Err(error::NO_ALARM_BY_HAND.into()),
        };
        Ok(Response::new(AlarmResponse { header: self.current_header().await?, alarms }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let status = self.store_status().await?;
        let leader = self.membership.borrow().leader;
        let mut errors: Vec<String> = Vec::new();
        if leader.is_none() {
            errors.push(error::NO_LEADER.status().message().to_owned());
        }
        for alarm in self.alarms(&status) {
            let kind = alarm.alarm().as_str_name();
            errors.push(format!("memberID:{} alarm:{kind} ", alarm.member_id));
        }
        Ok(Response::new(StatusResponse {
            header: self.header(status.revision),
            version: ETCD_VERSION.to_owned(),
            db_size: size(status.state_bytes),
            leader: leader.unwrap_or(0),
            raft_index: status.raft_index,
            raft_term: status.raft_term,
            raft_applied_index: status.applied_index,
            errors,
            db_size_in_use: size(status.live_bytes),
            is_learner: self.is_learner(),
            storage_version: STORAGE_VERSION.to_owned(),
            db_size_quota: size(status.quota_bytes),
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    /// It would come by itself; this is now. The server serves meanwhile.
    async fn defragment(
        &self,
        _request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(|error| error::status(&error))?;
        Ok(Response::new(DefragmentResponse { header: self.current_header().await? }))
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let hashed = Core::hash(self, 0).await?;
        let header = self.header(hashed.revision);
        Ok(Response::new(HashResponse { header, hash: hashed.hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let hashed = Core::hash(self, request.into_inner().revision).await?;
        Ok(Response::new(HashKvResponse {
            header: self.header(hashed.revision),
            hash: hashed.hash,
            // Etcd says so before its first compaction.
            compact_revision: if hashed.compact_revision == 0 {
                -1
            } else {
                hashed.compact_revision
            },
            hash_revision: hashed.hash_revision,
        }))
    }

    type SnapshotStream = Snapshots;

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<Snapshots>, Status> {
        Ok(Response::new(Box::pin(snapshot::answers(self.0.clone()).await?)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let target = request.into_inner().target_id;
        let leader = self.membership.borrow().leader;
        if leader != Some(self.config.member_id) {
            return Err(error::NOT_LEADER.into());
        }
        if !self.membership.borrow().voters().any(|member| member.id == target) {
            return Err(error::BAD_TRANSFEREE.into());
        }
        if leader != Some(target) {
            let moved = self.control.transfer_leadership(Some(target)).await;
            moved.map_err(|error| error::status(&error))?;
            if !self.until_known(|now| now.leader == Some(target)).await {
                return Err(error::TRANSFER_TIMEOUT.into());
            }
        }
        Ok(Response::new(MoveLeaderResponse { header: self.current_header().await? }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let request = request.into_inner();
        let refusal = match request.action() {
            DowngradeAction::Cancel => error::NO_DOWNGRADE,
            _ if !is_version(&request.version) => error::DOWNGRADE_FORMAT,
            // There is no older release of this store that is an etcd.
            DowngradeAction::Validate | DowngradeAction::Enable => error::DOWNGRADE_TARGET,
        };
        Err(refusal.into())
    }
}

fn is_version(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').map(str::parse::<u32>).collect();
    parts.len() == 3 && parts.iter().all(Result::is_ok)
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
