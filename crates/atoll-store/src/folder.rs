//! The store's folder: who may use it now (a lock), and whose it is (`member.json`).
//!
//! The epoch rises at every start, so that an older copy of the folder can be told from it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, is_full};

/// Version of the folder's layout. Opening a folder with another one is refused.
pub(crate) const FORMAT: u32 = 1;
const MEMBER_FILE: &str = "member.json";
const LOCK_FILE: &str = "lock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) format: u32,
    /// 32 hexadecimal digits.
    pub(crate) cluster_id: String,
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
}

impl Member {
    pub(crate) fn cluster_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (position, byte) in bytes.iter_mut().enumerate() {
            let digits = self.cluster_id.get(2 * position..2 * position + 2).unwrap_or("00");
            *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
        }
        bytes
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("{file} is not readable as a member file")]
    Parse { file: String, source: serde_json::Error },
    #[error("{file} has format {found}; this release reads format {FORMAT}")]
    Format { file: String, found: u32 },
    #[error("{file} is missing although the folder holds a store; restore it from a backup")]
    Missing { file: String },
    #[error("{file}: {action}")]
    Io { file: String, action: &'static str, source: io::Error },
}

/// Reads who this member is, or decides it for a new folder, and raises the epoch.
pub(crate) fn enter(disk: &dyn Disk, random: &mut dyn RngCore) -> Result<Member, FolderError> {
    let file = disk.describe(MEMBER_FILE);
    let failed = |action| {
        let file = file.clone();
        move |source| FolderError::Io { file, action, source }
    };
    let mut member = match disk.read(MEMBER_FILE) {
        Ok(content) => serde_json::from_slice::<Member>(&content)
            .map_err(|source| FolderError::Parse { file: file.clone(), source })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if disk.exists("state.redb").map_err(failed("looking for a state file failed"))? {
                return Err(FolderError::Missing { file });
            }
            new_member(random)
        }
        Err(error) => return Err(failed("reading failed")(error)),
    };
    if member.format != FORMAT {
        return Err(FolderError::Format { file, found: member.format });
    }
    member.epoch += 1;
    let content = serde_json::to_vec_pretty(&member)
        .map_err(|source| FolderError::Parse { file: file.clone(), source })?;
    match disk.replace("", MEMBER_FILE, &content) {
        Ok(()) => {}
        // Reads must be possible on a full disk; the next start raises the epoch durably.
        Err(error) if is_full(&error) && member.epoch > 1 => {
            tracing::warn!(%error, "the disk is full; the store's epoch was not written");
        }
        Err(error) => return Err(failed("writing failed")(error)),
    }
    Ok(member)
}

fn new_member(random: &mut dyn RngCore) -> Member {
    let mut cluster = [0; 16];
    random.fill_bytes(&mut cluster);
    Member {
        format: FORMAT,
        cluster_id: cluster.iter().map(|byte| format!("{byte:02x}")).collect(),
        // Zero is no member in Raft; 63 bits keep it positive for clients that use signed ids.
        member_id: (random.next_u64() >> 1).max(1),
        epoch: 0,
    }
}

/// Held as long as the store is open; the kernel frees it when the process ends, however it does.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process (or this one) has the folder open.
    Held {
        pid: Option<u32>,
    },
    Io(io::Error),
}

pub(crate) fn lock(folder: &Path) -> Result<FolderLock, LockError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(folder.join(LOCK_FILE))
        .map_err(LockError::Io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut content = String::new();
            file.read_to_string(&mut content).map_err(LockError::Io)?;
            return Err(LockError::Held { pid: content.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
    }
    // The number helps a person; a full disk must not keep the store from opening for reads.
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    if let Err(error) = written {
        tracing::warn!(%error, "the process id could not be written to the lock file");
    }
    Ok(FolderLock { _file: file })
}
