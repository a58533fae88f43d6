//! The machine's own file system below one folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::direct::Direct;
use super::{Disk, DiskFile};

/// The store holds secrets, so its files are nobody else's.
const FILE_MODE: u32 = 0o600;
/// In which `stat` counts, whatever the file system's own are.
const STAT_BLOCK_BYTES: u64 = 512;

#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn open_file(&self, name: &str, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).truncate(false).mode(FILE_MODE);
        options.open(self.root.join(name))
    }
}

impl Disk for RealDisk {
    fn describe(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn create_folder(&self, name: &str) -> io::Result<()> {
        fs::create_dir_all(self.root.join(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.root.join(folder))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile { file: self.open_file(name, create)?, direct: None }))
    }

    fn open_log(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.open_file(name, create)?;
        let direct = Direct::open(&self.root.join(name), &file);
        Ok(Arc::new(RealFile { file, direct }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        File::open(self.root.join(folder))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(&self.root)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
    }
}

#[derive(Debug)]
struct RealFile {
    file: File,
    direct: Option<Direct>,
}

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * STAT_BLOCK_BYTES)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.file.write_all_at(content, offset)
    }

    fn write_blocks(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        match &self.direct {
            Some(direct) if direct.write(offset, content)? => Ok(()),
            _ => self.write_at(offset, content),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(length: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().take(length).collect()
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        let file = disk.open_log("log", true).unwrap();
        file.write_at(0, &vec![0; 1 << 20]).unwrap();
        // The last two are none: one is too large, one is not aligned.
        for (offset, length) in [(4096, 4096), (8192, 65_536), (0, 4096), (4096, 516_096), (5, 8)] {
            let content = pattern(length);
            file.write_blocks(offset, &content).unwrap();
            file.sync().unwrap();
            let mut read = vec![0; length];
            file.read_at(offset, &mut read).unwrap();
            assert!(read == content, "{length} bytes at {offset}");
            let offset = usize::try_from(offset).unwrap();
            let whole = disk.read("log").unwrap();
            assert!(whole[offset..offset + length] == content, "{length} bytes at {offset}");
        }
    }

    #[test]
    fn blocks_beside_zeros_that_are_being_written_stay() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(folder.path());
        let file = disk.open_log("log", true).unwrap();
        file.write_at(0, &vec![0; 256 << 10]).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in 1..16 {
                    file.write_at(piece * (256 << 10), &vec![0; 256 << 10]).unwrap();
                    file.sync().unwrap();
                }
            });
            for block in 0..64 {
                file.write_blocks(block * 4096, &pattern(4096)).unwrap();
                file.sync().unwrap();
            }
        });
        let read = disk.read("log").unwrap();
        assert_eq!(read.len(), 4 << 20);
        assert!(read[..64 * 4096] == pattern(64 * 4096)[..]);
        assert!(read[64 * 4096..].iter().all(|byte| *byte == 0));
    }
}
