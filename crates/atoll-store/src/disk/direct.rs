//! Writes past the page cache (`O_DIRECT`): the disk takes the log's blocks from our memory, and
//! the sync that follows has only to flush the disk's own cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use crate::sync::lock;

/// What offset, length and address are a multiple of. Few disks have larger sectors; they refuse.
const ALIGNMENT: usize = 4096;
/// Larger pieces gain nothing, and would have to be copied.
const LARGEST_BYTES: usize = 256 << 10;

/// A second descriptor of a file that is otherwise written through the page cache. Both may write
/// at the same time: the kernel keeps them apart by the lock of the file's inode, and writes and
/// drops what the cache has of a stretch that is written past it.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// Content at an address that is aligned.
    aligned: Mutex<Vec<u8>>,
    /// The file system wants more alignment than this.
    refused: AtomicBool,
}

impl Direct {
    /// None where the file system cannot, or where `path` is another file by now.
    pub(super) fn open(path: &Path, same: &File) -> Option<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        let (own, other) = (file.metadata().ok()?, same.metadata().ok()?);
        let is_same = (own.dev(), own.ino()) == (other.dev(), other.ino());
        let (aligned, refused) = (Mutex::default(), AtomicBool::new(false));
        is_same.then_some(Self { file, aligned, refused })
    }

    /// Whether it was written; if not, it has to be written in the ordinary way.
    pub(super) fn write(&self, offset: u64, content: &[u8]) -> io::Result<bool> {
        let fits = offset.is_multiple_of(ALIGNMENT as u64)
            && content.len().is_multiple_of(ALIGNMENT)
            && content.len() <= LARGEST_BYTES;
        if !fits || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut aligned = lock(&self.aligned);
        self.write_as_it_is(offset, copied(&mut aligned, content))
    }

    fn write_as_it_is(&self, offset: u64, content: &[u8]) -> io::Result<bool> {
        match self.file.write_all_at(content, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::debug!(%error, "the log is written through the page cache");
                self.refused.store(true, Ordering::Relaxed);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn copied<'a>(aligned: &'a mut Vec<u8>, content: &[u8]) -> &'a [u8] {
    let room = content.len() + ALIGNMENT;
    if aligned.len() < room {
        // Whatever it holds is old, and its address changes.
        *aligned = vec![0; room];
    }
    let start = aligned.as_ptr().align_offset(ALIGNMENT);
    let out = &mut aligned[start..start + content.len()];
    out.copy_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None, said aloud, where the file system of temporary files cannot.
    fn direct(folder: &Path) -> Option<Direct> {
        let path = folder.join("log");
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let found = Direct::open(&path, &File::open(&path).unwrap());
        if found.is_none() {
            println!("{} has no O_DIRECT: not tried", path.display());
        }
        found
    }

    #[test]
    fn blocks_go_past_the_cache_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let Some(direct) = direct(folder.path()) else { return };
        let written = |offset, length| direct.write(offset, &vec![7; length]).unwrap();
        assert!(written(4096, 4096) && written(0, LARGEST_BYTES));
        assert!(!written(5, 4096) && !written(4096, 8) && !written(0, LARGEST_BYTES + 4096));
        assert!(!direct.refused.load(Ordering::Relaxed));
        let found = std::fs::read(folder.path().join("log")).unwrap();
        assert!(found[..LARGEST_BYTES].iter().all(|byte| *byte == 7));
        assert!(found[LARGEST_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_the_disk_refuses_is_not_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let Some(direct) = direct(folder.path()) else { return };
        // No disk has sectors of a byte; some file systems take it all the same.
        if direct.write_as_it_is(1, &[1; 3]).unwrap() {
            println!("this file system aligns by itself: not tried");
            return;
        }
        assert!(!direct.write(0, &[1; 4096]).unwrap());
        assert!(std::fs::read(folder.path().join("log")).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn another_file_under_the_same_name_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "old").unwrap();
        let old = File::open(&path).unwrap();
        std::fs::rename(&path, folder.path().join("moved")).unwrap();
        std::fs::write(&path, "new").unwrap();
        assert!(Direct::open(&path, &old).is_none());
    }
}
