//! What a backup of this server is made of: a description with its keys, and the store.

use anyhow::{Context as _, Result};
use atoll_apiserver::backup::{BackupError, BackupSource, BackupStream};
use atoll_backup::archive::{KeyFile, Manifest};
use atoll_store::{EmbeddedStore, Snapshots, StoreSnapshot, cluster::ClusterControl};
use futures::{FutureExt as _, StreamExt as _, stream};
use jiff::Timestamp;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Semaphore;

/// One at a time: each holds on to the state file's old pages until it is done.
const BACKUPS_MAX: usize = 1;

pub fn source(store: &EmbeddedStore, keys: PathBuf) -> BackupSource {
    let places = Arc::new(Semaphore::new(BACKUPS_MAX));
    let parts = Parts {
        snapshots: store.snapshots(),
        cluster: store.cluster(),
        cluster_id: store.cluster_id().to_owned(),
        keys,
    };
    let parts = Arc::new(parts);
    Arc::new(move || {
        let (places, parts) = (places.clone(), parts.clone());
        async move {
            let place = places.try_acquire_owned().map_err(|_busy| BackupError::Busy)?;
            let stream = parts.begin().await?;
            let held = stream.map(move |chunk| {
                let _held = &place;
                chunk
            });
            Ok(held.boxed())
        }
        .boxed()
    })
}

struct Parts {
    snapshots: Snapshots,
    cluster: Arc<dyn ClusterControl>,
    cluster_id: String,
    keys: PathBuf,
}

impl Parts {
    async fn begin(&self) -> Result<BackupStream, BackupError> {
        let (snapshot, keys) = self.of_one_moment().await?;
        let members = self.cluster.membership().members;
        let manifest = Manifest {
            cluster_id: self.cluster_id.clone(),
            taken_at: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            servers: members.into_iter().map(|member| member.name).collect(),
            cluster_revision: snapshot.cluster_revision,
            applications_revision: snapshot.applications_revision,
            keys,
        };
        let head = manifest.encode().map_err(|error| BackupError::Keys(error.into()))?;
        let chunks = snapshot.chunks.map(|chunk| chunk.map_err(Into::into));
        Ok(stream::once(async move { Ok(head.into()) }).chain(chunks).boxed())
    }

    /// The store, and the keys that open what is sealed in it: a rotation may drop one meanwhile.
    async fn of_one_moment(&self) -> Result<(StoreSnapshot, Vec<KeyFile>), BackupError> {
        let keys = || key_files(&self.keys).map_err(|error| BackupError::Keys(error.into()));
        let mut before = keys()?;
        loop {
            let snapshot = self.snapshots.take().await.map_err(BackupError::Store)?;
            let after = keys()?;
            if before == after {
                return Ok((snapshot, after));
            }
            before = after;
        }
    }
}

/// Every key and certificate of the folder, by name.
fn key_files(folder: &Path) -> Result<Vec<KeyFile>> {
    let reading = || format!("reading the key folder {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let secret = path.extension().is_some_and(|end| end == "key");
        if !secret && path.extension().is_none_or(|end| end != "crt") {
            continue;
        }
        let content =
            std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        files.push(KeyFile::new(name, secret, &content));
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}
