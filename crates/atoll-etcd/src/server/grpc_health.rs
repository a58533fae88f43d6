//! The health service of gRPC, which probes and clients that balance their calls ask.
//!
//! There is one thing to be well, the server, whose name is empty. It serves also while it
//! defragments.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status};

use super::{Shared, error};
use crate::proto::grpc_health_v1::health_check_response::ServingStatus;
use crate::proto::grpc_health_v1::health_server::Health;
use crate::proto::grpc_health_v1::{HealthCheckRequest, HealthCheckResponse};

type Answers = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

fn status_of(request: &HealthCheckRequest) -> ServingStatus {
    if request.service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown }
}

#[tonic::async_trait]
impl Health for Shared {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match status_of(request.get_ref()) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("unknown service")),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    type WatchStream = Answers;

    /// Its status does not change until the server stops.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Answers>, Status> {
        let ends = self.stream_ends(request.metadata());
        let status = status_of(request.get_ref()).into();
        let core = self.0.clone();
        let first = futures::stream::once(async move { Ok(HealthCheckResponse { status }) });
        let last = futures::stream::once(async move {
            tokio::select! {
                () = core.stop.cancelled() => Err(error::STOPPED.into()),
                status = ends => Err(status),
            }
        });
        Ok(Response::new(Box::pin(futures::StreamExt::chain(first, last))))
    }
}
