//! The lock service: a name has one owner at a time.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Shared;
use super::waiting::handed_on;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::kv_server::Kv as _;
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

#[tonic::async_trait]
impl Lock for Shared {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = request.into_inner();
        let lease = self.session(lease).await?;
        let entered = self.enter(&name, lease, Bytes::new()).await?;
        let Some(header) = self.turn(&name, &entered).await? else {
            return Err(Status::unknown("mutex: session is expired"));
        };
        entered.waiting.won();
        Ok(Response::new(LockResponse { header: Some(header), key: entered.place.key }))
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        let key = request.into_inner().key;
        let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let deleted = self.delete_range(Request::new(delete)).await.map_err(handed_on)?;
        Ok(Response::new(UnlockResponse { header: deleted.into_inner().header }))
    }
}
