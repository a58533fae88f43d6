//! What the server does for a store that does not do it itself: it forgets old revisions.

use std::sync::Arc;
use std::time::Duration;

use atoll_store::kv::Error as StoreError;

use crate::core::Core;

/// How long revisions are kept: twice this at most. Lists that page more slowly begin anew.
const COMPACT_EVERY: Duration = Duration::from_secs(300);

/// Compacts to the revision of one period ago, each period. Such a store has one server.
pub(crate) async fn compact(core: Arc<Core>) {
    let mut before = None;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(COMPACT_EVERY) => {}
        }
        let now = core.registry.revision();
        let Some(revision) = before.replace(now).filter(|revision| *revision < now) else {
            continue;
        };
        match core.storage.kv().compact(revision).await {
            // Another server was faster.
            Ok(()) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(%error, revision, "compacting the store failed"),
        }
    }
}
