//! What the store asks of a disk: a folder of files, written in place and synced on demand.
//!
//! Names are relative to the store's folder. [`RealDisk`] is the machine's; [`SimulatedDisk`]
//! loses and tears what was not synced, fills up and fails when told to.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

mod direct;
mod overlay;
mod real;
mod simulated;

pub(crate) use overlay::Overlay;
pub use real::RealDisk;
pub use simulated::{Crash, Lie, SimulatedDisk};

pub trait Disk: Send + Sync + Debug {
    /// Where this is, for messages to people.
    fn describe(&self, name: &str) -> String;
    fn create_folder(&self, name: &str) -> io::Result<()>;
    /// The names of the files in a folder, sorted.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Opens for reading and writing; `create` makes an empty file when there is none.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// As [`Self::open`], for a file that is written with [`DiskFile::write_blocks`].
    fn open_log(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name, create)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// What others could still write there, where that is known.
    fn free_bytes(&self) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        match self.open(name, false) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A whole small file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let file = self.open(name, false)?;
        let length = usize::try_from(file.length()?).map_err(io::Error::other)?;
        let mut content = vec![0; length];
        file.read_at(0, &mut content)?;
        Ok(content)
    }

    /// Writes a small file so that a crash leaves the old content or the new one.
    fn replace(&self, folder: &str, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        let file = self.open(&temporary, true)?;
        file.set_length(0)?;
        file.write_at(0, content)?;
        file.sync()?;
        self.rename(&temporary, name)?;
        self.sync_folder(folder)
    }
}

pub trait DiskFile: Send + Sync + Debug {
    fn length(&self) -> io::Result<u64>;
    /// What it takes on the disk: less than its length where nothing was ever written.
    fn allocated_bytes(&self) -> io::Result<u64> {
        self.length()
    }
    /// Fails when the file is shorter.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Extends the file where needed.
    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()>;
    /// As [`Self::write_at`], for whole blocks that nobody will read soon: without a copy of them in
    /// the page cache, where that can be. No more durable than that, until [`Self::sync`].
    fn write_blocks(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.write_at(offset, content)
    }
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Content and length are durable when this returns; the time of change need not be.
    fn sync(&self) -> io::Result<()>;
}

/// Whether a failed write may succeed once somebody makes room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
