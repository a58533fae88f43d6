//! The store's folder: who may use it now (a lock), and whose it is (`member.json`).
//!
//! The epoch rises at every start, so that an older copy of the folder can be told from it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rand::RngCore;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, MemberStart, Start};
use crate::disk::{Disk, is_full};
use crate::newer::Newer;

/// Version of the folder's layout. An older one is read, a newer one refused.
pub(crate) const FORMAT: u32 = 2;
const MEMBER_FILE: &str = "member.json";
const LOCK_FILE: &str = "lock";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) format: u32,
    /// 32 hexadecimal digits.
    pub(crate) cluster_id: String,
    pub(crate) member_id: u64,
    pub(crate) epoch: u64,
    /// What it was last told to be known as; the cluster hears of it through the log.
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) peer_address: String,
    #[serde(default)]
    pub(crate) client_urls: Vec<String>,
    /// It is a member of a cluster that was there before it.
    #[serde(default)]
    pub(crate) has_joined: bool,
    /// Whom it joined; of use until the first state has arrived.
    #[serde(default)]
    pub(crate) joined: Vec<cluster::Member>,
    /// The epoch is on disk.
    #[serde(skip)]
    pub(crate) is_written: bool,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Member {
    /// Its place in the cluster, as it would have it.
    pub(crate) fn record(&self) -> cluster::Member {
        cluster::Member {
            id: self.member_id,
            name: self.name.clone(),
            peer_address: self.peer_address.clone(),
            client_urls: self.client_urls.clone(),
            is_learner: self.has_joined,
        }
    }

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
    #[error("{0}")]
    Newer(#[source] Newer),
    #[error("{file} names the format 0, which there is not; restore it from a backup")]
    NoFormat { file: String },
    #[error("{file} is missing although the folder holds a store; restore it from a backup")]
    Missing { file: String },
    #[error("{file}: {action}")]
    Io { file: String, action: &'static str, source: io::Error },
}

/// Whose folder it is; `None` for one that is nobody's yet.
pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Member>, FolderError> {
    let file = disk.describe(MEMBER_FILE);
    let content = match disk.read(MEMBER_FILE) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FolderError::Io { file, action: "reading failed", source }),
    };
    let unreadable = |source| FolderError::Parse { file: file.clone(), source };
    // Before the rest, of which a later release may have made something else.
    let Version { format } = serde_json::from_slice(&content).map_err(unreadable)?;
    Newer::check(&file, format, FORMAT).map_err(FolderError::Newer)?;
    let member: Member = serde_json::from_slice(&content).map_err(unreadable)?;
    if format == 0 {
        return Err(FolderError::NoFormat { file });
    }
    Ok(Some(member))
}

/// Reads who this member is, or decides it for a new folder, and raises the epoch.
pub(crate) fn enter(
    disk: &dyn Disk,
    random: &mut dyn RngCore,
    start: Option<&MemberStart>,
) -> Result<Member, FolderError> {
    let file = disk.describe(MEMBER_FILE);
    let failed = |action| {
        let file = file.clone();
        move |source| FolderError::Io { file, action, source }
    };
    let mut member = match read(disk)? {
        Some(member) => member,
        None => {
            if disk.exists("state.redb").map_err(failed("looking for a state file failed"))? {
                return Err(FolderError::Missing { file });
            }
            new_member(random, start)
        }
    };
    member.format = FORMAT;
    member.epoch += 1;
    if let Some(start) = start {
        member.name.clone_from(&start.name);
        member.peer_address.clone_from(&start.peer_address);
        member.client_urls.clone_from(&start.client_urls);
    }
    let content = serde_json::to_vec_pretty(&member)
        .map_err(|source| FolderError::Parse { file: file.clone(), source })?;
    match disk.replace("", MEMBER_FILE, &content) {
        Ok(()) => member.is_written = true,
        // Reads must be possible on a full disk; the next start raises the epoch durably.
        Err(error) if is_full(&error) && member.epoch > 1 => {
            tracing::warn!(%error, "the disk is full; the store's epoch was not written");
        }
        Err(error) => return Err(failed("writing failed")(error)),
    }
    Ok(member)
}

fn new_member(random: &mut dyn RngCore, start: Option<&MemberStart>) -> Member {
    let (cluster_id, member_id, has_joined, joined) = match start.map(|start| &start.start) {
        Some(Start::Join { cluster_id, member_id, members }) => {
            (cluster_id.clone(), *member_id, true, members.clone())
        }
        Some(Start::New) | None => {
            let mut cluster = [0; 16];
            random.fill_bytes(&mut cluster);
            let cluster_id = cluster.iter().map(|byte| format!("{byte:02x}")).collect();
            (cluster_id, draw_id(random), false, Vec::new())
        }
    };
    Member {
        format: FORMAT,
        cluster_id,
        member_id,
        epoch: 0,
        name: String::new(),
        peer_address: String::new(),
        client_urls: Vec::new(),
        has_joined,
        joined,
        is_written: false,
    }
}

/// An id for a new member.
pub fn draw_member_id() -> u64 {
    draw_id(&mut rand::rng())
}

/// Zero is no member in Raft; 63 bits keep it positive for clients that use signed ids.
pub(crate) fn draw_id(random: &mut dyn RngCore) -> u64 {
    (random.next_u64() >> 1).max(1)
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
