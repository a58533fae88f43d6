//! What a backup takes of the store while it goes on.

use std::fmt::Debug;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{EmbeddedStore, Keyspace};
use crate::kv::{KeyRange, RangeRequest, Result, Revision};
use crate::snapshot::whole::WholeCopy;

/// Chunks waiting for a slow reader; the copy then waits too.
const CHUNKS_MAX: usize = 4;

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

impl EmbeddedStore {
    /// Everything acknowledged before the call is in it. Holds no writer up.
    pub async fn snapshot(&self) -> Result<StoreSnapshot> {
        // A linearizable read of one key that cannot be: this server is up to date, or refuses.
        let mut up_to_date = RangeRequest::new(KeyRange::single("\0"));
        up_to_date.count_only = true;
        self.keyspace(Keyspace::Cluster).range(up_to_date).await?;
        let copy = WholeCopy::begin(Vec::new(), &self.shared.keyspaces);
        let [cluster_revision, applications_revision] = copy.revisions();
        let (chunks, received) = mpsc::channel(CHUNKS_MAX);
        // It ends by itself when it is done or the reader has gone.
        drop(tokio::task::spawn_blocking(move || {
            for chunk in copy.chunks() {
                if chunks.blocking_send(chunk).is_err() {
                    return;
                }
            }
        }));
        let chunks = ReceiverStream::new(received).boxed();
        Ok(StoreSnapshot { cluster_revision, applications_revision, chunks })
    }
}
