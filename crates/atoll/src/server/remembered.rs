//! What a server keeps beside its store, so that a restart needs no token and no flag again.

use crate::dev::folder::write_atomically;
use anyhow::{Context as _, Result, bail};
use atoll_apiserver::servers::join::MemberRecord;
use serde::{Deserialize, Serialize};
use std::path::Path;

const FILE: &str = "server.json";
/// Format of the file.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    version: u32,
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
        remembered.version = 9;
        remembered.store(folder.path()).unwrap();
        let refused = Remembered::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("has version 9, this program reads 1"), "{refused}");
    }
}
