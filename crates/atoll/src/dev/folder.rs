//! The folder of a `dev` cluster: who has it, and what it holds.
//!
//! ```text
//! DIR/lock           held while a supervisor runs
//! DIR/cluster.json   id and address ranges of the cluster
//! DIR/kubeconfig     for kubectl; belongs to the user who called sudo
//! DIR/control        socket for `atoll chaos`
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
};

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
}

pub struct Folder {
    root: PathBuf,
    // Held, not read: the lock goes with the file.
    _lock: File,
}

impl Folder {
    /// Takes the folder for this process; makes it if it is not there.
    pub fn take(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root)
            .with_context(|| format!("making the data folder {}", root.display()))?;
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
            .with_context(|| format!("opening {}", path.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).ok();
            bail!(
                "the data folder {} is in use by another `atoll dev` (pid {}); stop that one, or choose another folder with --data-dir",
                root.display(),
                holder.trim()
            );
        }
        lock.set_len(0).and_then(|()| lock.rewind()).context("writing the lock")?;
        writeln!(lock, "{}", std::process::id()).context("writing the lock")?;
        Ok(Self { root, _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    pub fn server(&self) -> PathBuf {
        self.root.join("server")
    }

    pub fn node(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The cluster that the folder holds, or a new one.
    pub fn cluster(&self, nodes: u32) -> Result<Cluster> {
        let path = self.root.join("cluster.json");
        let mut cluster = match std::fs::read(&path) {
            Ok(text) => read_cluster(&text, &path)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Cluster { version: VERSION, id: format!("{:08x}", rand::random::<u32>()), nodes }
            }
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        cluster.nodes = nodes;
        let text = serde_json::to_vec_pretty(&cluster).context("writing cluster.json")?;
        write_atomically(&path, &text, 0o644)?;
        Ok(cluster)
    }
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

    #[test]
    fn a_folder_is_taken_once() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::take(parent.path()).unwrap();
        let refused = Folder::take(parent.path()).err().unwrap().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Folder::take(parent.path()).unwrap();
    }

    #[test]
    fn a_cluster_keeps_its_id() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::take(parent.path()).unwrap();
        let id = folder.cluster(3).unwrap().id;
        assert_eq!(folder.cluster(1).unwrap().id, id);
    }
}
