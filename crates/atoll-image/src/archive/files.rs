//! The files of an archive, read where they lie; nothing of it is copied unless the whole
//! archive is compressed.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tokio::sync::watch;

use crate::config::{Limits, Progress};
use crate::error::Error;

/// Files in an archive of images.
const FILES_MAX: usize = 10_000;

/// Links to links.
const LINKS_MAX: usize = 8;

/// Where a file lies in the archive, or which other it stands for.
enum Place {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

pub(super) struct Files {
    label: PathBuf,
    file: fs::File,
    places: HashMap<String, Place>,
}

impl Files {
    pub(super) fn open(
        file: fs::File,
        label: &Path,
        scratch: &Path,
        limits: Limits,
    ) -> Result<Files, Error> {
        let mut files = Files { label: label.to_owned(), file, places: HashMap::new() };
        let io_error = |e| Error::io("reading", label, e);
        if files.file.metadata().map_err(io_error)?.is_dir() {
            return Err(files.error("it is a directory; pack it into a tar first"));
        }
        files.file.seek(SeekFrom::Start(0)).map_err(io_error)?;
        let mut start = Vec::new();
        files.file.by_ref().take(6).read_to_end(&mut start).map_err(io_error)?;
        match start.as_slice() {
            [] => return Err(files.error("it is empty")),
            [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => files.inflate(scratch, limits)?,
            [0xfd, b'7', b'z', b'X', b'Z', ..] | [b'B', b'Z', b'h', ..] => {
                return Err(files.error("it is compressed with xz or bzip2; unpack it first"));
            }
            _ => {}
        }
        files.scan()?;
        Ok(files)
    }

    pub(super) fn label(&self) -> String {
        self.label.display().to_string()
    }

    pub(super) fn error(&self, reason: &str) -> Error {
        Error::Archive { path: self.label.clone(), reason: reason.to_owned() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// A compressed archive cannot be read out of order.
    fn inflate(&mut self, scratch: &Path, limits: Limits) -> Result<(), Error> {
        let write_error = |e| Error::io("unpacking into", scratch, e);
        fs::create_dir_all(scratch).map_err(write_error)?;
        let path = scratch.join(format!("archive-{:016x}", rand::random::<u64>()));
        let mut plain = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(write_error)?;
        // Without a name it is gone with its last user, whatever happens.
        fs::remove_file(&path).map_err(write_error)?;
        let read_error = |e: io::Error| Error::Archive {
            path: self.label.clone(),
            reason: format!("it is compressed, and damaged or cut: {e}"),
        };
        self.file.seek(SeekFrom::Start(0)).map_err(read_error)?;
        let mut reader = crate::layer::decompress(&self.file).map_err(read_error)?;
        // Four layers of the largest size: more is no archive of images.
        let mut left = limits.layer_bytes_max.saturating_mul(4);
        let mut buffer = vec![0u8; 128 * 1024];
        loop {
            let length = reader.read(&mut buffer).map_err(read_error)?;
            if length == 0 {
                break;
            }
            left = left.checked_sub(length as u64).ok_or_else(|| {
                self.error("it unpacks to more than any archive of images; it is refused")
            })?;
            io::Write::write_all(&mut plain, &buffer[..length]).map_err(write_error)?;
        }
        drop(reader);
        self.file = plain;
        Ok(())
    }

    fn scan(&mut self) -> Result<(), Error> {
        let label = self.label.clone();
        let damaged = |e: io::Error| Error::Archive {
            path: label.clone(),
            reason: format!("it is no tar archive, or a damaged one: {}", first_words(&e)),
        };
        self.file.seek(SeekFrom::Start(0)).map_err(damaged)?;
        let length = self.file.metadata().map_err(damaged)?.len();
        let mut found = HashMap::new();
        let mut reader = tar::Archive::new(&self.file);
        for entry in reader.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let name = normal(&entry.path().map_err(damaged)?);
            let place = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let (offset, size) = (entry.raw_file_position(), entry.size());
                    if offset.saturating_add(size) > length {
                        return Err(
                            self.error(&format!("it was cut: it ends in the middle of {name}"))
                        );
                    }
                    Place::Bytes { offset, size }
                }
                kind @ (tar::EntryType::Symlink | tar::EntryType::Link) => {
                    let Ok(Some(target)) = entry.link_name() else { continue };
                    let base = Path::new(&name).parent().unwrap_or(Path::new(""));
                    let base = if kind == tar::EntryType::Link { Path::new("") } else { base };
                    Place::Link(normal(&base.join(target)))
                }
                _ => continue,
            };
            if found.len() >= FILES_MAX {
                return Err(self.error(&format!("it holds more than {FILES_MAX} files")));
            }
            found.insert(name, place);
        }
        self.places = found;
        Ok(())
    }

    fn place(&self, name: &str) -> Result<(u64, u64), Error> {
        let mut at = normal(Path::new(name));
        for _ in 0..LINKS_MAX {
            match self.places.get(&at) {
                Some(Place::Bytes { offset, size }) => return Ok((*offset, *size)),
                Some(Place::Link(target)) => at.clone_from(target),
                None => break,
            }
        }
        Err(self.error(&format!("it lacks {name}; it was cut or is not complete")))
    }

    pub(super) fn size(&self, name: &str) -> Result<u64, Error> {
        self.place(name).map(|(_, size)| size)
    }

    /// What is read through it counts as progress. One reader at a time: they share the
    /// archive's position.
    pub(super) fn reader(
        &self,
        name: &str,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<impl Read + use<>, Error> {
        let (offset, size) = self.place(name)?;
        let io_error = |e| Error::io("reading", &self.label, e);
        let mut file = self.file.try_clone().map_err(io_error)?;
        file.seek(SeekFrom::Start(offset)).map_err(io_error)?;
        let buffered = BufReader::with_capacity(128 * 1024, file);
        Ok(Counting { inner: buffered.take(size), progress })
    }

    pub(super) fn bytes(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let size = self.size(name)?;
        if size > bytes_max {
            return Err(self.error(&format!("{name} is larger than {bytes_max} bytes")));
        }
        let mut bytes = Vec::new();
        self.reader(name, None)?
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("reading", &self.label, e))?;
        Ok(bytes)
    }
}

struct Counting<R> {
    inner: R,
    progress: Option<watch::Sender<Progress>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        if let Some(progress) = &self.progress {
            progress.send_modify(|p| p.fetched_bytes += length as u64);
        }
        Ok(length)
    }
}

/// The path without `.` and `..`, as archives name their own files.
fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for component in path.components() {
        match component {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

/// The reader's complaint without what it quotes of the file, which may be anything: secrets
/// of the wrong file, commands to a terminal.
fn first_words(error: &io::Error) -> String {
    let text = error.to_string();
    let quoted = text.find([':', '`']).or_else(|| text.find(char::is_control));
    text[..quoted.unwrap_or(text.len())].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_quotes_nothing_of_the_file() {
        let error = io::Error::other("numeric field was not a number: root:x:0\n\u{1b}[2J");
        assert_eq!(first_words(&error), "numeric field was not a number");
        assert_eq!(first_words(&io::Error::other("unexpected EOF")), "unexpected EOF");
    }
}
