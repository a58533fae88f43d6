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

/// What was put aside is compressed under this ending.
const GZIP: &str = ".gz";
/// A compressed file that is not complete yet.
const UNFINISHED: &str = ".tmp";

/// The files of one run, oldest first, without the ending that compressed ones have; the
/// last is the one being written.
#[must_use]
pub fn files(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix) && !name.ends_with(UNFINISHED))
        .map(|name| dir.join(name.trim_end_matches(GZIP)))
        .collect();
    found.sort();
    // While it is being compressed a file is there twice.
    found.dedup();
    found.push(log.to_path_buf());
    found
}

/// Opens a file of a log, gunzipping one that was compressed meanwhile or before. `None`
/// when it was removed as the oldest.
pub fn open(path: &Path) -> io::Result<Option<Box<dyn BufRead + Send>>> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match File::open(path) {
        Ok(file) => return Ok(Some(Box::new(BufReader::new(file)))),
        Err(error) if missing(&error) => {}
        Err(error) => return Err(error),
    }
    match File::open(format!("{}{GZIP}", path.display())) {
        Ok(file) => Ok(Some(Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))))),
        Err(error) if missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files put aside of a run, opened, oldest first: what is put aside from now on
/// changes nothing. `newest` is the inode of the file that was being written before.
pub fn open_older(log: &Path, newest: u64) -> io::Result<Vec<Lines>> {
    let mut all = Vec::new();
    let mut paths = files(log);
    paths.pop();
    for path in paths {
        // Put aside meanwhile: the caller has it already.
        let is_newest = path.metadata().is_ok_and(|meta| inode(&meta) == newest);
        if !is_newest && let Some(file) = open(&path)? {
            all.push(Lines(file));
        }
    }
    Ok(all)
}

/// Where lines come from.
pub trait Source: Send {
    /// The next complete line; `None` when there is none, or none yet.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>>;
}

/// A file that was put aside.
pub struct Lines(Box<dyn BufRead + Send>);

impl Source for Lines {
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line)?;
        Ok(line.ends_with(b"\n").then_some(line))
    }
}

/// The last `count` lines, in order, as raw entries; complete ones only. The follower
/// stands behind them afterwards.
pub fn tail(follower: &mut Follower, count: usize) -> io::Result<VecDeque<Vec<u8>>> {
    let mut newest = Newest(follower);
    let mut kept = last_lines(&mut newest, count)?;
    let mut lines = kept.iter().filter(|line| ends_line(line)).count();
    if lines >= count {
        return Ok(kept);
    }
    let (path, inode) = (follower.path.clone(), follower.inode);
    for mut older in open_older(&path, inode)?.into_iter().rev() {
        let mut own = last_lines(&mut older, count - lines)?;
        lines += own.iter().filter(|line| ends_line(line)).count();
        own.append(&mut kept);
        kept = own;
        if lines >= count {
            break;
        }
    }
    Ok(kept)
}

/// A follower that does not go on to the next file.
struct Newest<'a>(&'a mut Follower);

impl Source for Newest<'_> {
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.0.line()
    }
}

fn last_lines(source: &mut dyn Source, count: usize) -> io::Result<VecDeque<Vec<u8>>> {
    let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
    let mut lines = 0;
    while let Some(line) = source.next_line()? {
        lines += usize::from(ends_line(&line));
        kept.push_back(line);
        while lines > count
            && let Some(dropped) = kept.pop_front()
        {
            lines -= usize::from(ends_line(&dropped));
        }
    }
    if count == 0 {
        kept.clear();
    }
    Ok(kept)
}

fn ends_line(line: &[u8]) -> bool {
    parse(line).is_none_or(|entry| entry.full)
}

/// The end of a log as a termination message.
#[must_use]
pub fn last_words(log: &Path) -> Option<String> {
    let lines = tail(&mut Follower::open(log).ok()?, LAST_WORDS_LINES_MAX).ok()?;
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

impl Source for Follower {
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
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
        *self = Follower::open(&self.path)?;
        self.line()
    }
}

impl Follower {
    /// Begins at the file's start.
    pub fn open(path: &Path) -> io::Result<Follower> {
        let file = File::open(path)?;
        let inode = inode(&file.metadata()?);
        Ok(Follower { path: path.to_path_buf(), file: BufReader::new(file), inode })
    }

    /// What this file still has, but not those that come after it.
    #[must_use]
    pub fn rest(self) -> Lines {
        Lines(Box::new(self.file))
    }

    /// Names the file that is followed now, wherever it is moved.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
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
