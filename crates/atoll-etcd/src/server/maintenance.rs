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

    /// What the store says is up, which ends by itself, and what clients have raised.
    pub(super) fn alarms(&self, status: &kv::Status) -> Vec<AlarmMember> {
        let mut up = self.records.borrow().alarms.clone();
        if status.no_space {
            up.insert((self.config.member_id, AlarmType::Nospace.into()));
        }
        up.into_iter().map(|(member_id, alarm)| AlarmMember { member_id, alarm }).collect()
    }

    /// Raises or lowers one; an answer has what has changed, or what was up already.
    async fn set_alarm(
        &self,
        asked: &AlarmRequest,
        is_up: bool,
    ) -> Result<Vec<AlarmMember>, Status> {
        let (member_id, alarm) = (asked.member_id, asked.alarm);
        let is_known = self.records.borrow().alarms.contains(&(member_id, alarm));
        if alarm == i32::from(AlarmType::None) || (!is_up && !is_known) {
            return Ok(Vec::new());
        }
        let done = match is_up {
            true if is_known => Ok(()),
            true => self.raise(member_id, alarm).await,
            false => self.lower(member_id, alarm).await,
        };
        done.map_err(|error| error::status(&error))?;
        Ok(vec![AlarmMember { member_id, alarm }])
    }

    /// What alarms that clients raised forbid; the store looks at its own space itself.
    pub(super) fn check_alarms(&self, effect: Effect) -> Result<(), Status> {
        let records = self.records.borrow();
        if records.alarms.is_empty() {
            return Ok(());
        }
        if records.is_raised(AlarmType::Corrupt) {
            return Err(error::CORRUPT.into());
        }
        if effect == Effect::Grows && records.is_raised(AlarmType::Nospace) {
            return Err(error::NO_SPACE.into());
        }
        Ok(())
    }

    pub(super) async fn store_status(&self) -> Result<kv::Status, Status> {
        self.store.status().await.map_err(|error| error::status(&error))
    }
}

/// Of a call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It needs space.
    Grows,
    /// It does not.
    Changes,
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
            Ok(AlarmAction::Activate) => self.set_alarm(asked, true).await?,
            // One that has a cause stays.
            Ok(AlarmAction::Deactivate) => self.set_alarm(asked, false).await?,
            Err(_unknown) => return Err(error::INVALID_ALARM_ACTION.into()),
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
            db_size: size(allocated_bytes(&status)),
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

/// What lives may not have been written to the state file yet.
pub(super) fn allocated_bytes(status: &kv::Status) -> u64 {
    status.state_bytes.max(status.live_bytes)
}

fn is_version(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').map(str::parse::<u32>).collect();
    parts.len() == 3 && parts.iter().all(Result::is_ok)
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
