//! Compressed layers on their way in: `blobs/sha256/<digest>`, whole or `.partial`.
//!
//! Pulls of different images may want the same layer at once, also from several
//! processes: whoever holds the blob's lock fetches and unpacks it, the others wait and
//! find the layer there.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use crate::digest::{Hasher, hex};
use crate::error::Error;
use crate::index;

/// Between two looks at a lock that somebody else holds.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a pull that broke off has left is kept so long for the next try.
const KEPT_SECONDS: i64 = 24 * 60 * 60;

fn dir(root: &Path) -> PathBuf {
    root.join("blobs/sha256")
}

pub(crate) fn path(root: &Path, digest: &str) -> PathBuf {
    dir(root).join(hex(digest))
}

/// The right to fetch and unpack one blob. The kernel takes it back from the dead.
#[derive(Debug)]
pub(crate) struct BlobLock {
    path: PathBuf,
    _file: fs::File,
}

impl BlobLock {
    /// Waits until nobody else has it.
    pub(crate) async fn take(blob: &Path) -> Result<BlobLock, Error> {
        let path = blob.with_extension("lock");
        loop {
            match try_lock(&path).map_err(|e| Error::io("locking", &path, e))? {
                Some(file) => return Ok(BlobLock { path, _file: file }),
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

fn try_lock(path: &Path) -> io::Result<Option<fs::File>> {
    let file = fs::File::options().write(true).create(true).truncate(false).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // The last holder removes the file: a lock on one without a name is worth nothing.
    let own = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for BlobLock {
    fn drop(&mut self) {
        // Before the lock itself goes with the file.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "removing a blob's lock");
        }
    }
}

/// What an earlier try left, hashed. Blocks.
pub(crate) fn hash_partial(path: &Path) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::default();
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((hasher, 0)),
        Err(error) => return Err(error),
    };
    let mut length = 0;
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher, length)),
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

/// Removes what nobody came back for, or everything. Only while nobody pulls.
pub(crate) fn sweep(root: &Path, everything: bool) -> u64 {
    let oldest = index::now() - KEPT_SECONDS;
    let mut freed_bytes = 0;
    for entry in fs::read_dir(dir(root)).into_iter().flatten().filter_map(Result::ok) {
        let Ok(metadata) = entry.metadata() else { continue };
        if !everything && metadata.mtime() > oldest {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => freed_bytes += metadata.len(),
            Err(error) => {
                tracing::warn!(%error, path = %entry.path().display(), "removing a blob");
            }
        }
    }
    freed_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_at_a_time_and_no_file_left() {
        let dir = tempfile::tempdir().unwrap();
        let blob = dir.path().join("aa");
        let first = BlobLock::take(&blob).await.unwrap();
        assert!(try_lock(&blob.with_extension("lock")).unwrap().is_none());
        let (second, ()) = tokio::join!(BlobLock::take(&blob), async { drop(first) });
        drop(second.unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_what_is_old_is_swept_unless_the_disk_is_full() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir(root.path())).unwrap();
        let (old, young) = (dir(root.path()).join("a.partial"), dir(root.path()).join("b.partial"));
        fs::write(&old, "12345").unwrap();
        fs::write(&young, "678").unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(sweep(root.path(), false), 5);
        assert!(young.exists());
        assert_eq!(sweep(root.path(), true), 3);
    }
}
