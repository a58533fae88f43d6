//! What a backup takes of the store while it goes on.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{EmbeddedStore, Keyspace};
use crate::kv::{KeyRange, KvStore, RangeRequest, Result, Revision};
use crate::shared::Shared;
use crate::snapshot::whole::WholeCopy;

/// Chunks waiting for a slow reader; the copy then waits too.
const CHUNKS_MAX: usize = 4;
/// A reader that takes nothing for so long keeps the state file from reusing its pages; then the
/// snapshot is cut off.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Both keyspaces as of one moment.
pub struct StoreSnapshot {
    pub cluster_revision: Revision,
    pub applications_revision: Revision,
    /// What [`crate::restore::Restore`] takes. Ends with an error when the store stops.
    pub chunks: BoxStream<'static, Result<Bytes>>,
}

impl Debug for StoreSnapshot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StoreSnapshot")
            .field("cluster_revision", &self.cluster_revision)
            .field("applications_revision", &self.applications_revision)
            .finish_non_exhaustive()
    }
}

/// Takes snapshots of a store; does not keep it from being shut down.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
    cluster: Arc<dyn KvStore>,
}

impl Debug for Snapshots {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Snapshots")
    }
}

impl EmbeddedStore {
    pub fn snapshots(&self) -> Snapshots {
        Snapshots { shared: self.shared.clone(), cluster: self.keyspace(Keyspace::Cluster) }
    }
}

impl Snapshots {
    /// Everything acknowledged before the call is in it. Holds no writer up.
    pub async fn take(&self) -> Result<StoreSnapshot> {
        // A linearizable read of one key that cannot be: this server is up to date, or refuses.
        let mut up_to_date = RangeRequest::new(KeyRange::single("\0"));
        up_to_date.count_only = true;
        self.cluster.range(up_to_date).await?;
        let copy = WholeCopy::begin(Vec::new(), &self.shared.keyspaces);
        let [cluster_revision, applications_revision] = copy.revisions();
        let (chunks, received) = mpsc::channel(CHUNKS_MAX);
        let runtime = Handle::current();
        // It ends by itself when it is done, or the reader has gone or reads no more.
        drop(tokio::task::spawn_blocking(move || {
            for chunk in copy.chunks() {
                let sent = chunks.send_timeout(chunk, STALL_MAX);
                if let Err(error) = runtime.block_on(sent) {
                    tracing::debug!(%error, "a snapshot was not read to its end");
                    return;
                }
            }
        }));
        let chunks = ReceiverStream::new(received).boxed();
        Ok(StoreSnapshot { cluster_revision, applications_revision, chunks })
    }
}
