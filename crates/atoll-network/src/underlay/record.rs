//! What is written down about each cluster's underlay, and the lock over all of them.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Underlay;
use crate::Error;

/// The file in a cluster's run folder that tells what was made.
pub const FILE: &str = "underlay.json";
const LOCK: &str = "underlay.lock";

/// The format of the record.
const RECORD_VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) data_dir: PathBuf,
    pub(super) underlay: Underlay,
    /// Whether this cluster turned the host's forwarding on.
    pub(super) turned_forwarding_on: bool,
}

impl Record {
    pub(super) fn new(data_dir: &Path, underlay: Underlay, turned_forwarding_on: bool) -> Self {
        let data_dir = data_dir.to_owned();
        Self { version: RECORD_VERSION, data_dir, underlay, turned_forwarding_on }
    }

    pub(super) fn read(run_dir: &Path, cluster_id: &str) -> Result<Option<Self>, Error> {
        let path = run_dir.join(cluster_id).join(FILE);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|source| Error::File {
                action: "reading",
                path: path.clone(),
                source,
            })?,
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::BadRecord { path, source })
    }

    pub(super) fn write(&self) -> Result<(), Error> {
        let dir = self.underlay.run_dir.join(&self.underlay.cluster_id);
        let path = dir.join(FILE);
        let beside = dir.join("underlay.json.tmp");
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|source| Error::BadRecord { path: path.clone(), source })?;
        std::fs::create_dir_all(&dir)
            .and_then(|()| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|source| Error::File { action: "writing", path, source })
    }

    pub(super) fn delete(run_dir: &Path, cluster_id: &str) -> Result<(), Error> {
        let path = run_dir.join(cluster_id).join(FILE);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { action: "removing", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The records of all clusters on the machine.
    pub(super) fn all(run_dir: &Path) -> Result<Vec<Self>, Error> {
        let fault = |source| Error::File { action: "listing", path: run_dir.into(), source };
        let entries = match std::fs::read_dir(run_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(fault)?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fault)?;
            if let Some(name) = entry.file_name().to_str() {
                records.extend(Self::read_in_dir(run_dir, name, &entry.path())?);
            }
        }
        Ok(records)
    }

    fn read_in_dir(run_dir: &Path, name: &str, dir: &Path) -> Result<Option<Self>, Error> {
        if dir.is_dir() { Self::read(run_dir, name) } else { Ok(None) }
    }
}

/// Held while ranges are chosen and clusters made or removed; waits for others.
#[derive(Debug)]
pub(super) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub(super) fn take(run_dir: &Path) -> Result<Self, Error> {
        let path = run_dir.join(LOCK);
        let fault = |source| Error::File { action: "locking", path: path.clone(), source };
        std::fs::create_dir_all(run_dir).map_err(fault)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(fault)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive);
        locked.map(|file| Self { _file: file }).map_err(|(_, errno)| fault(errno.into()))
    }
}
