//! Volumes that are folders of this node, made by the provisioner `atoll.dev/local`.
//!
//! A folder is made when a pod first mounts the volume. From then on this node holds the object
//! by a finalizer, follows it, and lets it go once the folder is empty again; what is to be kept
//! (`Retain`) stays on disk and only the object goes.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_informer::Informer;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who makes such volumes, as their annotation says.
pub const PROVISIONER: &str = "atoll.dev/local";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Holds the object while there is a folder.
pub const FINALIZER: &str = "atoll.dev/local-volume";

/// Between two attempts to remove a folder or to say so.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The folders of this node. Each is followed by a watch of its own: the Node authorizer lets a
/// node see its volumes by name only.
pub struct Folders {
    client: Client,
    /// `<root>/volumes`.
    dir: PathBuf,
    tasks: TaskTracker,
    stop: CancellationToken,
    followed: Mutex<BTreeMap<String, CancellationToken>>,
}

impl Folders {
    /// Follows the volumes whose folders are there already.
    pub fn start(
        client: Client,
        root: &Path,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let dir = root.join("volumes");
        let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
        let names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let folders = Arc::new(Self { client, dir, tasks, stop, followed: Mutex::default() });
        for name in names.iter().filter(|name| is_plain(name)) {
            folders.follow(name);
        }
        folders
    }

    /// The volume's folder, made if it is not there. The object is held before the folder is
    /// used, so that it never goes without it.
    pub async fn ensure(self: &Arc<Self>, volume: &PersistentVolume) -> Result<PathBuf, String> {
        let name = volume.name_any();
        if !is_plain(&name) {
            return Err(format!("{name:?} cannot be the name of a folder"));
        }
        let path = self.dir.join(&name);
        let made = path.clone();
        tokio::task::spawn_blocking(move || make(&made))
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if !volume.finalizers().iter().any(|one| one == FINALIZER) {
            let mut finalizers = volume.finalizers().to_vec();
            finalizers.push(FINALIZER.to_owned());
            self.write(volume, &finalizers).await.map_err(|error| {
                format!("holding volume {name:?} before its folder is used: {error}")
            })?;
        }
        self.follow(&name);
        Ok(path)
    }

    async fn write(
        &self,
        volume: &PersistentVolume,
        finalizers: &[String],
    ) -> Result<(), kube::Error> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "metadata": {
            "uid": volume.metadata.uid,
            // The list is replaced as a whole, so it must be the one that was read.
            "resourceVersion": volume.metadata.resource_version,
            "finalizers": finalizers,
        } }));
        match api.patch(&volume.name_any(), &PatchParams::default(), &patch).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, CancellationToken>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, name: &str) {
        let stop = self.stop.child_token();
        {
            let mut followed = self.lock();
            if followed.contains_key(name) {
                return;
            }
            followed.insert(name.to_owned(), stop.clone());
        }
        let (this, name) = (self.clone(), name.to_owned());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.watch(&name, &stop) => {}
            }
        });
    }

    async fn watch(self: &Arc<Self>, name: &str, stop: &CancellationToken) {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut wait = RETRY_FIRST;
        // A watch of an object that is gone is refused, and would be tried for ever.
        loop {
            match find(&api, name).await {
                Ok(Some(_)) => break,
                Ok(None) => return self.let_go(name),
                Err(error) => tracing::debug!(volume = name, %error, "not found out; will retry"),
            }
            tokio::time::sleep(wait).await;
            wait = RETRY_MAX.min(wait * 2);
        }
        let informer: Arc<Informer<PersistentVolume>> = Informer::new();
        let (this, own) = (self.clone(), name.to_owned());
        informer.on_change(move |change| {
            let leaving =
                change.new.is_none_or(|volume| volume.metadata.deletion_timestamp.is_some());
            if leaving {
                this.let_go(&own);
            }
        });
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        informer.run(api, only, stop.clone()).await;
    }

    /// Ends following, and whatever is left to do is done by one task.
    fn let_go(self: &Arc<Self>, name: &str) {
        let Some(token) = self.lock().remove(name) else { return };
        token.cancel();
        let (this, name) = (self.clone(), name.to_owned());
        self.tasks.spawn(async move {
            tokio::select! {
                () = this.stop.cancelled() => {}
                () = this.remove(&name) => {}
            }
        });
    }

    async fn remove(&self, name: &str) {
        let mut wait = RETRY_FIRST;
        while let Err(error) = self.try_remove(name).await {
            tracing::warn!(volume = name, %error, "volume not removed; will retry");
            tokio::time::sleep(wait).await;
            wait = RETRY_MAX.min(wait * 2);
        }
    }

    /// The folder itself goes last: as long as it is there, the next start finds the volume.
    async fn try_remove(&self, name: &str) -> Result<(), String> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let found = find(&api, name).await.map_err(|error| error.to_string())?;
        let path = self.dir.join(name);
        let Some(volume) = found else {
            // Somebody removed the object by force. What is in the folder is not ours to judge.
            return match std::fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    let path = path.display();
                    tracing::warn!(volume = name, %path, "the volume is gone, its files stay");
                    Ok(())
                }
                _ => Ok(()),
            };
        };
        if volume.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        let keeps = keeps(&volume);
        if !keeps {
            let emptied = path.clone();
            tokio::task::spawn_blocking(move || empty(&emptied))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let mut finalizers = volume.finalizers().to_vec();
        finalizers.retain(|one| one != FINALIZER);
        self.write(&volume, &finalizers).await.map_err(|error| error.to_string())?;
        if !keeps {
            std::fs::remove_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            tracing::info!(volume = name, "volume removed");
        }
        Ok(())
    }
}

/// An object that this node may not see is none of its own: as good as gone.
async fn find(
    api: &Api<PersistentVolume>,
    name: &str,
) -> Result<Option<PersistentVolume>, kube::Error> {
    match api.get_opt(name).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(None),
        other => other,
    }
}

fn keeps(volume: &PersistentVolume) -> bool {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()) != Some("Delete")
}

/// A name that is one folder, and none that we use ourselves.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains('/')
}

/// Open to every user, as volumes of pods are; only root reaches the folder above.
fn make(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700))?;
    }
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))
}

/// Removes what is in a folder, without following links out of it.
fn empty(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_emptied_and_what_links_lead_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("v"), dir.path().join("outside"));
        make(&volume).unwrap();
        std::fs::create_dir_all(volume.join("deep/er")).unwrap();
        std::fs::write(volume.join("deep/er/file"), "x").unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("link")).unwrap();
        empty(&volume).unwrap();
        assert_eq!(std::fs::read_dir(&volume).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
        empty(&dir.path().join("never-was")).unwrap();
    }

    #[test]
    fn names_do_not_lead_elsewhere() {
        for name in ["", "..", ".x", "a/b", "/etc"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain("pvc-0f5c"));
    }
}
