//! The folder of a `dev` cluster: who has it, and what it holds.
//!
//! ```text
//! DIR/lock           held while a supervisor runs
//! DIR/cluster.json   id and address ranges of the cluster
//! DIR/kubeconfig     for kubectl; belongs to the user who called sudo
//! DIR/server/        store and keys of the server
//! DIR/node-N/        everything of one node
//! ```

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;
use tracing::{debug, info};

/// What the lock says beside the pid once its holder has begun to stop.
const STOPPING: &str = "stopping";
/// Pods may use up their grace periods.
const STOPPING_MAX: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Digits of a cluster's id.
pub const ID_LENGTH: usize = 8;
/// Format of `cluster.json`.
const VERSION: u32 = 1;

/// What stays the same over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    version: u32,
    /// Eight hexadecimal digits; names everything the cluster makes in the system.
    pub id: String,
    /// How many nodes it was last started with.
    pub nodes: u32,
    /// On the first of them there are servers. They are members of one store for good.
    #[serde(default = "one")]
    pub servers: u32,
}

/// What a folder of the release before has.
fn one() -> u32 {
    1
}

pub struct Folder {
    root: PathBuf,
    // The lock goes with the file.
    lock: File,
}

impl Folder {
    /// Takes the folder for this process; makes it if it is not there. One whose supervisor
    /// is about to end is waited for.
    pub async fn take(root: &Path) -> Result<Self> {
        make_for_the_user(root)?;
        let root = root
            .canonicalize()
            .with_context(|| format!("finding the data folder {}", root.display()))?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| cannot_use(&root))?;
        let deadline = Instant::now() + STOPPING_MAX;
        let mut said = false;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            lock.rewind().context("reading the lock")?;
            lock.read_to_string(&mut holder).context("reading the lock")?;
            let (pid, state) = holder.trim().split_once(' ').unwrap_or((holder.trim(), ""));
            if state != STOPPING || Instant::now() > deadline {
                bail!(
                    "the data folder {} is in use by another `atoll dev` (pid {pid}); stop that one, or choose another folder with --data-dir",
                    root.display(),
                );
            }
            if !said {
                info!(pid, "waiting for the former `atoll dev` on this folder, which is stopping");
                said = true;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let folder = Self { root, lock };
        folder.mark("").with_context(|| cannot_use(&folder.root))?;
        Ok(folder)
    }

    /// From here on a successor waits instead of being refused.
    pub fn stopping(&self) {
        if let Err(error) = self.mark(STOPPING) {
            debug!(%error, "a successor will be refused instead of waiting");
        }
    }

    fn mark(&self, state: &str) -> std::io::Result<()> {
        let mut lock = &self.lock;
        lock.rewind()?;
        lock.set_len(0)?;
        writeln!(lock, "{} {state}", std::process::id())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Shows the kubeconfig that the server wrote: whoever waits for it finds the nodes ready.
    pub fn publish_kubeconfig(&self) -> Result<()> {
        let written = self.server().join("kubeconfig");
        let text =
            std::fs::read(&written).with_context(|| format!("reading {}", written.display()))?;
        write_for_the_user(&self.kubeconfig(), &text, 0o600)
    }

    pub fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    pub fn node(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The cluster that the folder holds, or a new one.
    pub fn cluster(&self, nodes: u32, servers: Option<u32>) -> Result<Cluster> {
        let path = self.root.join("cluster.json");
        let mut cluster = match std::fs::read(&path) {
            Ok(text) => read_cluster(&text, &path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Cluster {
                version: VERSION,
                id: format!("{:08x}", rand::random::<u32>()),
                nodes,
                servers: 1,
            },
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        cluster.nodes = nodes;
        let servers = servers.unwrap_or(cluster.servers);
        if servers < cluster.servers {
            bail!(
                "the cluster in {} has {} servers, and needs most of them; start it with --servers {1}, or none of that flag",
                self.root.display(),
                cluster.servers
            );
        }
        if servers > nodes {
            bail!(
                "{servers} servers stand on as many nodes; start it with --nodes {servers} or more"
            );
        }
        cluster.servers = servers;
        let text = serde_json::to_vec_pretty(&cluster).context("writing cluster.json")?;
        write_atomically(&path, &text, 0o644).with_context(|| cannot_use(&self.root))?;
        Ok(cluster)
    }
}

/// The cluster that a folder holds, if it can be read.
pub fn cluster_in(root: &Path) -> Option<String> {
    let text = std::fs::read(root.join("cluster.json")).ok()?;
    serde_json::from_slice::<Cluster>(&text).ok().map(|cluster| cluster.id)
}

fn cannot_use(root: &Path) -> String {
    format!(
        "writing to the data folder {}; make it writable, or choose another with --data-dir",
        root.display()
    )
}

/// The ids of whoever called sudo.
fn sudo_user() -> Option<(u32, u32)> {
    let id = |name: &str| crate::variable(name).and_then(|text| text.parse::<u32>().ok());
    id("SUDO_UID").zip(id("SUDO_GID"))
}

/// Makes the folder. Under sudo the folders above it that were missing belong to the user,
/// whose home they may be in.
fn make_for_the_user(root: &Path) -> Result<()> {
    let missing: Vec<&Path> = root.ancestors().skip(1).take_while(|path| !path.exists()).collect();
    std::fs::create_dir_all(root).with_context(|| {
        format!("making the data folder {}; choose another with --data-dir", root.display())
    })?;
    let Some((user, group)) = sudo_user() else { return Ok(()) };
    for path in missing.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        std::os::unix::fs::chown(path, Some(user), Some(group))
            .with_context(|| format!("giving {} to its user", path.display()))?;
    }
    Ok(())
}

/// Under sudo the files that are for the user belong to the user.
pub fn write_for_the_user(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let name = path.display();
    let beside = path.with_extension("user");
    write_atomically(&beside, text, mode)?;
    if let Some((user, group)) = sudo_user() {
        std::os::unix::fs::chown(&beside, Some(user), Some(group))
            .with_context(|| format!("giving {name} to its user"))?;
    }
    std::fs::rename(&beside, path).with_context(|| format!("writing {name}"))
}

fn read_cluster(text: &[u8], path: &Path) -> Result<Cluster> {
    let cluster: Cluster = serde_json::from_slice(text)
        .with_context(|| format!("{} is damaged; restore it from a backup", path.display()))?;
    if cluster.version != VERSION {
        bail!(
            "{} has version {}, this program reads {VERSION}; use the program that wrote it",
            path.display(),
            cluster.version
        );
    }
    Ok(cluster)
}

/// Writes a file so that a reader sees the old text or the new one, never a part.
pub fn write_atomically(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let name = path.display();
    let partial = path.with_extension("partial");
    if partial.exists() {
        std::fs::remove_file(&partial)
            .with_context(|| format!("removing an old part of {name}"))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&partial)
        .with_context(|| format!("writing {name}"))?;
    file.write_all(text).with_context(|| format!("writing {name}"))?;
    file.sync_all().with_context(|| format!("writing {name}"))?;
    std::fs::rename(&partial, path).with_context(|| format!("writing {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_is_taken_once() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::take(parent.path()).await.unwrap();
        let refused = Folder::take(parent.path()).await.err().unwrap().to_string();
        assert!(refused.contains(&format!("(pid {})", std::process::id())), "{refused}");
        drop(first);
        Folder::take(parent.path()).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_stopping_is_waited_for() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::take(parent.path()).await.unwrap();
        first.stopping();
        let second = Folder::take(parent.path());
        let release = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(second, release);
        second.unwrap();
    }

    #[tokio::test]
    async fn a_cluster_keeps_its_id() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::take(parent.path()).await.unwrap();
        let id = folder.cluster(5, None).unwrap().id;
        assert_eq!(folder.cluster(1, None).unwrap().id, id);
        assert_eq!(folder.cluster(3, Some(3)).unwrap().servers, 3);
        assert_eq!(folder.cluster(4, None).unwrap().servers, 3);
        let refused = folder.cluster(4, Some(1)).unwrap_err().to_string();
        assert!(refused.contains("has 3 servers"), "{refused}");
        let refused = folder.cluster(2, None).unwrap_err().to_string();
        assert!(refused.contains("--nodes 3 or more"), "{refused}");
        assert_eq!(cluster_in(parent.path()), Some(id));
        assert_eq!(cluster_in(&parent.path().join("elsewhere")), None);
    }
}
