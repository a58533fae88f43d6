//! Log files in CRI format: finding the files of a run, reading lines, the last ones too.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Of a log that stands in for last words: no more bytes or lines than these.
const LAST_WORDS_BYTES_MAX: u64 = 2048;
const LAST_WORDS_LINES_MAX: usize = 80;

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    pub at: &'a str,
    /// False for a part of a line that goes on in the next entry.
    pub full: bool,
    pub text: &'a [u8],
}

/// `<time> <stream> <F|P> <text>`; `None` for what is no such line.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let at = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next()?;
    if stream != b"stdout" && stream != b"stderr" {
        return None;
    }
    let full = match parts.next()? {
        b"P" => false,
        tag if tag.first() == Some(&b'F') => true,
        _ => return None,
    };
    Some(Entry { at, full, text: parts.next().unwrap_or_default() })
}

impl Entry<'_> {
    #[must_use]
    pub fn is_before(&self, since: Timestamp) -> bool {
        self.at.parse::<Timestamp>().is_ok_and(|at| at < since)
    }

    /// As `kubectl logs` prints it.
    #[must_use]
    pub fn render(&self, timestamps: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.text.len() + 40);
        if timestamps {
            bytes.extend_from_slice(self.at.as_bytes());
            bytes.push(b' ');
        }
        bytes.extend_from_slice(self.text);
        if self.full {
            bytes.push(b'\n');
        }
        bytes
    }
}

/// The files of one run, oldest first; the last is the one being written.
#[must_use]
pub fn files(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && !name.ends_with(".tmp")
        })
        .collect();
    found.sort();
    found.push(log.to_path_buf());
    found
}

/// Opens a file of a log, gunzipping one that was put aside.
pub fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let file = File::open(path)?;
    if path.extension().is_some_and(|extension| extension == "gz") {
        Ok(Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))))
    } else {
        Ok(Box::new(BufReader::new(file)))
    }
}

/// The last `count` lines of a run, in order, as raw entries; complete ones only.
pub fn tail(log: &Path, count: usize) -> io::Result<VecDeque<Vec<u8>>> {
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    let mut lines = 0;
    for path in files(log).into_iter().rev() {
        if lines >= count {
            break;
        }
        let mut reader = match open(&path) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut own: VecDeque<Vec<u8>> = VecDeque::new();
        let mut own_lines = 0;
        while let Some(line) = read_line(&mut reader)? {
            own_lines += usize::from(ends_line(&line));
            own.push_back(line);
            while own_lines > count - lines
                && let Some(dropped) = own.pop_front()
            {
                own_lines -= usize::from(ends_line(&dropped));
            }
        }
        lines += own_lines;
        own.append(&mut kept);
        kept = own;
    }
    Ok(kept)
}

fn ends_line(line: &[u8]) -> bool {
    parse(line).is_none_or(|entry| entry.full)
}

/// `None` at the end, and for a line that is still being written.
pub fn read_line(reader: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line)?;
    Ok(line.ends_with(b"\n").then_some(line))
}

/// The end of a log as a termination message.
#[must_use]
pub fn last_words(log: &Path) -> Option<String> {
    let lines = tail(log, LAST_WORDS_LINES_MAX).ok()?;
    let mut text = Vec::new();
    for line in &lines {
        text.extend(parse(line)?.render(false));
    }
    let max = usize::try_from(LAST_WORDS_BYTES_MAX).ok()?;
    let start = text.len().saturating_sub(max);
    Some(String::from_utf8_lossy(&text[start..]).into_owned())
}

/// Follows one file from a position; survives its being put aside for a new one.
pub struct Follower {
    path: PathBuf,
    file: BufReader<File>,
    inode: u64,
}

impl Follower {
    /// Begins at the start, or where the file ends now.
    pub fn open(path: &Path, from_end: bool) -> io::Result<Follower> {
        let mut file = File::open(path)?;
        let inode = inode(&file.metadata()?);
        if from_end {
            file.seek(SeekFrom::End(0))?;
        }
        Ok(Follower { path: path.to_path_buf(), file: BufReader::new(file), inode })
    }

    /// The next complete line; `None` when there is none yet.
    pub fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(line) = self.line()? {
            return Ok(Some(line));
        }
        let Ok(meta) = std::fs::metadata(&self.path) else { return Ok(None) };
        if inode(&meta) == self.inode {
            return Ok(None);
        }
        // Put aside: what was written to the old file meanwhile comes first.
        if let Some(line) = self.line()? {
            return Ok(Some(line));
        }
        *self = Follower::open(&self.path, false)?;
        self.line()
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let start = self.file.stream_position()?;
        let mut line = Vec::new();
        self.file.by_ref().read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            return Ok(Some(line));
        }
        if !line.is_empty() {
            self.file.seek(SeekFrom::Start(start))?;
        }
        Ok(None)
    }
}

fn inode(meta: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(meta)
}

#[cfg(test)]
#[path = "log_file/tests.rs"]
mod tests;
