//! A disk that is only looked at: what is written to it stays in memory, so that a folder can be
//! opened the ordinary way and is afterwards what it was before.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use super::{Disk, DiskFile};
use crate::sync::lock;

const PAGE_BYTES: usize = 4096;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

#[derive(Debug)]
pub(crate) struct Overlay {
    below: Arc<dyn Disk>,
    /// Files that were opened, by their present names; `None` is a file that is gone.
    files: Mutex<BTreeMap<String, Option<Arc<OverlayFile>>>>,
}

impl Overlay {
    pub(crate) fn new(below: Arc<dyn Disk>) -> Self {
        Self { below, files: Mutex::default() }
    }

    fn find(&self, name: &str) -> io::Result<Arc<OverlayFile>> {
        let mut files = lock(&self.files);
        if let Some(known) = files.get(name) {
            return known.clone().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let file = Arc::new(OverlayFile::over(self.below.open(name, false)?)?);
        files.insert(name.to_owned(), Some(file.clone()));
        Ok(file)
    }
}

impl Disk for Overlay {
    fn describe(&self, name: &str) -> String {
        self.below.describe(name)
    }

    fn create_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let below = match self.below.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            below => below?,
        };
        let mut names: BTreeSet<String> = below.into_iter().collect();
        for (path, file) in &*lock(&self.files) {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            if parent != folder {
                continue;
            }
            if file.is_some() {
                names.insert(name.to_owned());
            } else {
                names.remove(name);
            }
        }
        Ok(names.into_iter().collect())
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        match self.find(name) {
            Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                let file = Arc::new(OverlayFile::default());
                lock(&self.files).insert(name.to_owned(), Some(file.clone()));
                Ok(file)
            }
            found => Ok(found?),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.find(from)?;
        let mut files = lock(&self.files);
        files.insert(from.to_owned(), None);
        files.insert(to.to_owned(), Some(file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.find(name)?;
        lock(&self.files).insert(name.to_owned(), None);
        Ok(())
    }

    fn sync_folder(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct OverlayFile {
    below: Option<Arc<dyn DiskFile>>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    length: u64,
    /// Of the file below; behind it there are zeros.
    below_length: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl OverlayFile {
    fn over(below: Arc<dyn DiskFile>) -> io::Result<Self> {
        let length = below.length()?;
        let written = Written { length, below_length: length, pages: BTreeMap::new() };
        Ok(Self { below: Some(below), written: Mutex::new(written) })
    }

    /// Part of a page as it is now.
    fn part(&self, written: &Written, page: u64, from: usize, out: &mut [u8]) -> io::Result<()> {
        if let Some(content) = written.pages.get(&page) {
            out.copy_from_slice(&content[from..from + out.len()]);
            return Ok(());
        }
        let start = page * PAGE_BYTES as u64 + from as u64;
        let there = written.below_length.saturating_sub(start);
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(out.len());
        let (old, rest) = out.split_at_mut(there);
        rest.fill(0);
        match &self.below {
            Some(below) if !old.is_empty() => below.read_at(start, old),
            _ => Ok(()),
        }
    }
}

/// The pages of a stretch: number, where in the page it begins, and which of its bytes.
fn pages(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let page_bytes = PAGE_BYTES as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        // Less than a page.
        let from = usize::try_from(at % page_bytes).unwrap_or(0);
        let end = length.min(done + PAGE_BYTES - from);
        let piece = (at / page_bytes, from, done..end);
        done = end;
        Some(piece)
    })
}

impl DiskFile for OverlayFile {
    fn length(&self) -> io::Result<u64> {
        Ok(lock(&self.written).length)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = lock(&self.written);
        if offset + out.len() as u64 > written.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, from, range) in pages(offset, out.len()) {
            self.part(&written, page, from, &mut out[range])?;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        let mut written = lock(&self.written);
        for (page, from, range) in pages(offset, content.len()) {
            let is_beyond = page * PAGE_BYTES as u64 >= written.below_length;
            let piece = &content[range];
            // A log is filled with zeros far ahead.
            if is_beyond && !written.pages.contains_key(&page) && *piece == ZEROS[..piece.len()] {
                continue;
            }
            let mut whole = vec![0; PAGE_BYTES];
            self.part(&written, page, 0, &mut whole)?;
            whole[from..from + piece.len()].copy_from_slice(piece);
            written.pages.insert(page, whole);
        }
        written.length = written.length.max(offset + content.len() as u64);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut written = lock(&self.written);
        written.below_length = written.below_length.min(length);
        let last = length / PAGE_BYTES as u64;
        written.pages.split_off(&(last + 1));
        let kept = usize::try_from(length % PAGE_BYTES as u64).unwrap_or(0);
        if let Some(page) = written.pages.get_mut(&last) {
            page[kept..].fill(0);
        }
        written.length = length;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::RealDisk;
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    #[test]
    fn it_behaves_as_a_disk_and_leaves_the_one_below_alone() {
        let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let content: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for folder in [&left, &right] {
            std::fs::create_dir(folder.path().join("wal")).unwrap();
            std::fs::write(folder.path().join("wal/a"), &content).unwrap();
        }
        let overlay = Overlay::new(Arc::new(RealDisk::new(left.path())));
        let real = RealDisk::new(right.path());
        let disks: [&dyn Disk; 2] = [&overlay, &real];
        let files = disks.map(|disk| disk.open("wal/a", false).unwrap());
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..2_000 {
            step(&files, &mut random);
        }
        let whole = disks.map(|disk| disk.read("wal/a").unwrap());
        assert!(whole[0] == whole[1]);
        for disk in disks {
            disk.open("wal/b", true).unwrap().write_at(5000, b"b").unwrap();
            disk.rename("wal/b", "wal/c").unwrap();
            disk.remove("wal/a").unwrap();
            assert_eq!(disk.list("wal").unwrap(), ["c"]);
            assert!(!disk.exists("wal/a").unwrap() && !disk.exists("wal/b").unwrap());
            assert_eq!(disk.read("wal/c").unwrap().len(), 5001);
        }
        assert_eq!(std::fs::read(left.path().join("wal/a")).unwrap(), content);
        assert_eq!(std::fs::read_dir(left.path().join("wal")).unwrap().count(), 1);
    }

    fn step(files: &[Arc<dyn DiskFile>; 2], random: &mut impl Rng) {
        let offset = random.random_range(0..30_000);
        let length = random.random_range(0..9_000);
        match random.random_range(0..6) {
            0 => files.iter().for_each(|file| file.set_length(offset).unwrap()),
            1 => files.iter().for_each(|file| file.write_at(offset, &vec![0; length]).unwrap()),
            2 | 3 => {
                let fill = random.random_range(1..255);
                files.iter().for_each(|file| file.write_at(offset, &vec![fill; length]).unwrap());
            }
            _ => {
                let read = files.each_ref().map(|file| {
                    let mut out = vec![1; length];
                    file.read_at(offset, &mut out).is_ok().then_some(out)
                });
                assert!(read[0] == read[1], "{length} bytes at {offset}");
            }
        }
        assert_eq!(files[0].length().unwrap(), files[1].length().unwrap());
    }
}
