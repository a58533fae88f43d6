//! `atoll backup` and `atoll restore`: a cluster as one encrypted file, and back.

mod lock;
pub mod progress;
mod restore;
mod take;

pub use restore::{Restore, check_unfinished};
pub use take::Backup;

use atoll_backup::archive::Manifest;
use atoll_store::restore::Contents;
use serde_json::{Value, json};

pub use restore::run as run_restore;
pub use take::run as run_backup;

/// What a backup holds, for programs. Never its keys.
fn document(manifest: &Manifest, contents: &Contents, bytes: u64) -> Value {
    json!({
        "clusterId": manifest.cluster_id,
        "takenAt": manifest.taken_at,
        "release": manifest.release,
        "servers": manifest.servers,
        "clusterRevision": contents.cluster_revision,
        "applicationsRevision": contents.applications_revision,
        "records": contents.records,
        "keys": manifest.keys.iter().map(|key| key.name.clone()).collect::<Vec<_>>(),
        "bytes": bytes,
    })
}

/// Such as 5.6MB.
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000)];
    for (unit, one) in UNITS {
        if bytes >= one {
            return format!("{}.{}{unit}", bytes / one, bytes % one * 10 / one);
        }
    }
    format!("{bytes}B")
}
