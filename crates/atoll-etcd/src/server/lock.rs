//! The lock service: a name has one owner at a time.

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::Shared;
use super::waiting::{Entered, Waiting, handed_on};
use crate::proto::etcdserverpb::kv_server::Kv as _;
use crate::proto::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use crate::proto::v3lockpb::lock_server::Lock;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};

#[tonic::async_trait]
impl Lock for Shared {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        let LockRequest { name, lease } = request.into_inner();
        let lease = self.session(lease).await?;
        let Entered { place, header, .. } = self.enter(&name, lease, Bytes::new()).await?;
        let key = place.key.clone();
        let waiting = Waiting::new(self, place.clone());
        let mut header = Some(header);
        if self.turn(&name, &place).await? {
            // Its own lease may have ended while it waited.
            let own = RangeRequest { key: key.clone(), ..RangeRequest::default() };
            let read = self.read(own).await?;
            let is_held = read.kvs.iter().any(|kv| kv.create_revision == place.since);
            if !is_held {
                return Err(Status::unknown("mutex: session is expired"));
            }
            header = read.header;
        }
        waiting.keep();
        Ok(Response::new(LockResponse { header, key }))
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
