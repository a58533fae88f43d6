//! The Lease service.

use std::pin::Pin;
use std::sync::Arc;

use atoll_store::kv::Error;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::maintenance::Effect;
use super::{Core, Shared, error};
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};

type KeepAlives = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

impl Core {
    async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let ttl = match self.store.lease_keep_alive(id).await {
            Ok(ttl) => ttl,
            // Not an error of the stream: a client may keep many leases with it.
            Err(Error::LeaseNotFound { .. }) => 0,
            Err(error) => return Err(error::status(&error)),
        };
        Ok(LeaseKeepAliveResponse { header: self.current_header().await?, id, ttl })
    }
}

struct KeepAlive {
    core: Arc<Core>,
    requests: Streaming<LeaseKeepAliveRequest>,
    ends: BoxFuture<'static, Status>,
}

impl KeepAlive {
    /// `None` is the end of the stream.
    async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        let request = tokio::select! {
            request = self.requests.message() => request,
            () = self.core.stop.cancelled() => return Some(Err(error::STOPPED.into())),
            status = &mut self.ends => return Some(Err(status)),
        };
        match request {
            Ok(Some(request)) => Some(self.core.keep_alive(request.id).await),
            Ok(None) => None,
            Err(status) => Some(Err(status)),
        }
    }
}

#[tonic::async_trait]
impl Lease for Shared {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let request = request.into_inner();
        self.check_alarms(Effect::Grows)?;
        let granted = self.store.lease_grant(request.id, request.ttl).await;
        let (id, ttl) = granted.map_err(|error| error::status(&error))?;
        let header = self.current_header().await?;
        Ok(Response::new(LeaseGrantResponse { header, id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.check_alarms(Effect::Changes)?;
        let revoked = self.store.lease_revoke(request.into_inner().id).await;
        revoked.map_err(|error| error::status(&error))?;
        Ok(Response::new(LeaseRevokeResponse { header: self.current_header().await? }))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let ends = self.stream_ends(request.metadata());
        let requests = request.into_inner();
        let keep_alive = KeepAlive { core: self.0.clone(), requests, ends };
        let answers = futures::stream::unfold(Some(keep_alive), |keep_alive| async move {
            let mut keep_alive = keep_alive?;
            let answer = keep_alive.next().await?;
            let goes_on = answer.is_ok();
            Some((answer, goes_on.then_some(keep_alive)))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let header = self.current_header().await?;
        let found = match self.store.lease_info(request.id).await {
            Ok(found) => found,
            Err(Error::LeaseNotFound { id }) => {
                let gone = LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() };
                return Ok(Response::new(gone));
            }
            Err(error) => return Err(error::status(&error)),
        };
        // The store says how many seconds have begun, etcd how many are whole.
        let ttl = if found.remaining > 0 { found.remaining - 1 } else { found.remaining };
        Ok(Response::new(LeaseTimeToLiveResponse {
            header,
            id: found.id,
            ttl,
            granted_ttl: found.ttl,
            keys: if request.keys { found.keys } else { Vec::new() },
        }))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let ids = self.store.leases().await.map_err(|error| error::status(&error))?;
        let leases = ids.into_iter().map(|id| LeaseStatus { id }).collect();
        Ok(Response::new(LeaseLeasesResponse { header: self.current_header().await?, leases }))
    }
}
