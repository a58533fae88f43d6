//! What a server keeps beside its store, so that a restart needs no token and no flag again.

use crate::dev::folder::write_atomically;
use anyhow::{Context as _, Result, bail};
use atoll_apiserver::servers::join::MemberRecord;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

const FILE: &str = "server.json";
/// Format of the file.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// Of the file.
    pub version: u32,
    /// The name of its node.
    pub name: String,
    /// The address under which nodes and pods reach it, if one was named or found.
    pub advertise: Option<String>,
    pub peer_listen: Option<String>,
    pub peer_advertise: Option<String>,
    /// It has been one of several servers, so the others may call.
    pub has_peers: bool,
    /// Proves to the cluster that a machine that asks again is the one that asked before.
    pub join_key: Option<String>,
    /// What the cluster answered when it joined.
    pub joined: Option<Joined>,
    /// The cluster as this server last knew it, while there are others in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<KnownCluster>,
    /// Its store cannot be used, and the others have not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoin: Option<Rejoin>,
    /// When it became a new member, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejoined: Vec<Rejoined>,
}

/// Whom to ask when the store is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KnownCluster {
    pub cluster_id: String,
    /// Of this server, in hex.
    pub member_id: String,
    pub members: Vec<MemberRecord>,
    /// Not yet, when it has just been taken in.
    pub has_store: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejoin {
    pub cause: String,
    /// In hex: the member that it was, and the one that it will be.
    pub old_id: String,
    pub new_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejoined {
    pub at: jiff::Timestamp,
    pub cause: String,
    /// Where the store that could not be used is kept, if there was any.
    pub kept_in: Option<PathBuf>,
}

/// All of it holds for the whole cluster but the member's own id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    pub cluster_id: String,
    /// In hex; none when the store is somebody else's.
    pub member_id: Option<String>,
    pub members: Vec<MemberRecord>,
    pub service_cidr: String,
    pub pod_cidr: String,
    pub node_prefix: u8,
}

impl Remembered {
    pub fn new(name: &str) -> Self {
        Self {
            version: VERSION,
            name: name.to_owned(),
            advertise: None,
            peer_listen: None,
            peer_advertise: None,
            has_peers: false,
            join_key: None,
            joined: None,
            cluster: None,
            rejoin: None,
            rejoined: Vec::new(),
        }
    }

    /// `None` for a folder in which no server has run, or one of the release before.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        let remembered: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; restore it from a backup", path.display()))?;
        if remembered.version != VERSION {
            bail!(
                "{} has version {}, this program reads {VERSION}; use the program that wrote it",
                path.display(),
                remembered.version
            );
        }
        Ok(Some(remembered))
    }

    /// Only a change costs a write.
    pub fn store(&self, folder: &Path) -> Result<()> {
        if Self::load(folder).ok().flatten().as_ref() == Some(self) {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(self).context("writing server.json")?;
        write_atomically(&folder.join(FILE), &text, 0o600)
    }
}

/// Whether a server with this folder comes back as what it was, also when its store is gone.
pub fn has_been_a_member(folder: &Path) -> bool {
    let remembered = Remembered::load(folder).ok().flatten();
    folder.join("store").exists() || remembered.is_some_and(|one| one.cluster.is_some())
}

/// What is remembered while the server runs; several parts of it change that.
#[derive(Debug)]
pub struct Memory {
    folder: PathBuf,
    remembered: Mutex<Remembered>,
}

impl Memory {
    pub fn new(folder: &Path, remembered: Remembered) -> Arc<Self> {
        Arc::new(Self { folder: folder.to_owned(), remembered: Mutex::new(remembered) })
    }

    pub fn get(&self) -> Remembered {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Written before it counts.
    pub fn change(&self, change: impl FnOnce(&mut Remembered)) -> Result<()> {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = remembered.clone();
        change(&mut changed);
        if changed != *remembered {
            changed.store(&self.folder)?;
            let synced = std::fs::File::open(&self.folder).and_then(|folder| folder.sync_all());
            synced.with_context(|| format!("syncing {}", self.folder.display()))?;
        }
        *remembered = changed;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_back_and_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Remembered::load(folder.path()).unwrap(), None);
        let mut remembered = Remembered::new("node-1");
        remembered.peer_advertise = Some("10.0.0.1:2380".to_owned());
        remembered.store(folder.path()).unwrap();
        assert_eq!(Remembered::load(folder.path()).unwrap(), Some(remembered.clone()));
        let memory = Memory::new(folder.path(), remembered.clone());
        memory.change(|one| one.has_peers = true).unwrap();
        remembered.has_peers = true;
        assert_eq!(memory.get(), remembered);
        assert_eq!(Remembered::load(folder.path()).unwrap(), Some(remembered.clone()));
        remembered.version = 9;
        remembered.store(folder.path()).unwrap();
        let refused = Remembered::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("has version 9, this program reads 1"), "{refused}");
    }
}
