//! `POST /atoll/v1/backup`: everything that the cluster is, as a stream, for those who may post
//! there. Whoever gets it can be anybody in the cluster: it holds the authorities' keys.
//!
//! It is no GET, so that a role which may read every path does not come by it.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use crate::body::{Body, BoxError};
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::status::Status;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.atoll.backup");
const NO_STORE: &str = "this server has no store of its own; save the etcd that it uses, with \
                        `etcdctl snapshot save`";
/// Seconds after which somebody else's backup may be done.
const RETRY_AFTER_SECONDS: u32 = 5;

/// Why there is no backup now.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("another backup is being taken; try again when it is done")]
    Busy,
    #[error("the store cannot be copied")]
    Store(#[source] atoll_store::kv::Error),
    #[error("the server's keys cannot be read")]
    Keys(#[source] BoxError),
}

/// Ends with an error, or cleanly when it is whole.
pub type BackupStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Begins a backup. The server has files that this crate knows nothing of.
pub type BackupSource =
    Arc<dyn Fn() -> BoxFuture<'static, Result<BackupStream, BackupError>> + Send + Sync>;

pub fn create<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    on_create(core, request).boxed()
}

async fn on_create(core: &Core, request: PlainRequest<'_>) -> Result<Response<Body>, Status> {
    let source = core.config.backup.as_ref();
    let source = source.ok_or_else(|| Status::lacking(NO_STORE))?;
    let stream = source().await.map_err(|error| match &error {
        BackupError::Busy => Status::too_many_requests(error.to_string(), RETRY_AFTER_SECONDS),
        BackupError::Store(cause) => Status::store(cause),
        BackupError::Keys(cause) => Status::internal(format!("{error}: {cause}")),
    })?;
    // The one request after which somebody has all keys: it should not go unseen.
    tracing::warn!(user = request.user.name, "a backup is taken, with the cluster's keys");
    let mut response = Response::new(Body::stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
