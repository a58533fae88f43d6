//! The container's log in CRI format, with rotation.
//!
//! `2026-01-02T03:04:05.000000006Z stdout F text`; a line longer than
//! [`LINE_BYTES_MAX`] is cut, each piece but the last tagged `P`, and so is what ends without the
//! end of a line: readers add none. A carriage return before the end of a line goes, as with
//! containerd. Of the files put aside all but the newest are compressed, by `compress`.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::compress::{Compressor, GZIP, UNFINISHED};
use crate::spec::LogSpec;

/// Longest piece of a line, and what is held back of an unfinished one per stream.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub(crate) struct Log {
    spec: LogSpec,
    file: Option<fs::File>,
    bytes: u64,
    /// Unfinished lines.
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    out: Vec<u8>,
    /// Second of the last rotation, and how many fell into it: names must sort by age.
    rotated: (i64, u32),
    compressor: Compressor,
    /// Bytes that could not be written (the disk is full).
    pub(crate) lost_bytes: u64,
}

impl Log {
    pub(crate) fn open(spec: &LogSpec) -> io::Result<Log> {
        let (file, bytes) = open(&spec.path)?;
        Ok(Log {
            spec: spec.clone(),
            file: Some(file),
            bytes,
            stdout: Vec::new(),
            stderr: Vec::new(),
            out: Vec::new(),
            rotated: (i64::MIN, 0),
            compressor: Compressor::default(),
            lost_bytes: 0,
        })
    }

    /// Takes output as it was read.
    pub(crate) fn feed(&mut self, stream: Stream, mut chunk: &[u8], at: Timestamp) {
        while let Some(end) = chunk.iter().position(|b| *b == b'\n') {
            self.add(stream, &chunk[..end], at);
            self.pending(stream).pop_if(|last| *last == b'\r');
            self.emit(stream, b'F', at);
            chunk = &chunk[end + 1..];
            // Short lines grow tenfold by their stamps.
            if self.out.len() >= 2 * LINE_BYTES_MAX {
                self.flush(at);
            }
        }
        self.add(stream, chunk, at);
        self.flush(at);
    }

    /// The stream has ended: what is left of it has no end of its line, and gets none.
    pub(crate) fn finish(&mut self, stream: Stream, at: Timestamp) {
        if !self.pending(stream).is_empty() {
            self.emit(stream, b'P', at);
        }
        self.flush(at);
    }

    /// Opens the path anew, after somebody has moved the file.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let (file, bytes) = open(&self.spec.path)?;
        self.file = Some(file);
        self.bytes = bytes;
        Ok(())
    }

    fn pending(&mut self, stream: Stream) -> &mut Vec<u8> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn add(&mut self, stream: Stream, mut part: &[u8], at: Timestamp) {
        loop {
            let room = LINE_BYTES_MAX - self.pending(stream).len();
            if part.len() <= room {
                self.pending(stream).extend_from_slice(part);
                return;
            }
            let (now, later) = part.split_at(room);
            self.pending(stream).extend_from_slice(now);
            self.emit(stream, b'P', at);
            part = later;
        }
    }

    fn emit(&mut self, stream: Stream, tag: u8, at: Timestamp) {
        let line = std::mem::take(self.pending(stream));
        // Writing into memory cannot fail.
        if write!(self.out, "{at:.9} {} ", stream.name()).is_ok() {
            self.out.push(tag);
            self.out.push(b' ');
            self.out.extend_from_slice(&line);
            self.out.push(b'\n');
        }
        // The allocation is kept for the next line.
        let mut line = line;
        line.clear();
        *self.pending(stream) = line;
    }

    fn flush(&mut self, at: Timestamp) {
        if self.out.is_empty() {
            return;
        }
        let length = self.out.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.spec.max_bytes {
            self.rotate(at);
        }
        let written = match &mut self.file {
            Some(file) => file.write_all(&self.out),
            None => self.reopen().and_then(|()| match &mut self.file {
                Some(file) => file.write_all(&self.out),
                None => Ok(()),
            }),
        };
        match written {
            Ok(()) => self.bytes += length,
            // The container must not stop because its log cannot be written.
            Err(_full) => self.lost_bytes += length,
        }
        self.out.clear();
        if self.out.capacity() > 4 * LINE_BYTES_MAX {
            self.out.shrink_to(LINE_BYTES_MAX);
        }
    }

    fn rotate(&mut self, at: Timestamp) {
        let second = at.as_second();
        let counter = if self.rotated.0 == second { self.rotated.1 + 1 } else { 0 };
        self.rotated = (second, counter);
        let aside = aside(&self.spec.path, at, counter);
        if fs::rename(&self.spec.path, &aside).is_err() {
            return;
        }
        if self.reopen().is_err() {
            self.file = None;
        }
        prune(&self.spec);
        self.compressor.start(&self.spec);
    }

    /// Whether the child that has ended was one that compressed.
    pub(crate) fn reaped(&mut self, pid: i32) -> bool {
        self.compressor.reaped(pid)
    }
}

fn open(path: &Path) -> io::Result<(fs::File, u64)> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = fs::File::options().append(true).create(true).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// `<path>.20060102-150405`, with a counter from the second one in a second on.
fn aside(path: &Path, at: Timestamp, counter: u32) -> PathBuf {
    let stamp = at.strftime("%Y%m%d-%H%M%S");
    if counter == 0 {
        PathBuf::from(format!("{}.{stamp}", path.display()))
    } else {
        PathBuf::from(format!("{}.{stamp}-{counter:06}", path.display()))
    }
}

/// The files put aside, oldest first, without the ending that compressed ones have.
pub(crate) fn put_aside(spec: &LogSpec) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (spec.path.parent(), spec.path.file_name()) else {
        return Vec::new();
    };
    let prefix = format!("{}.", name.to_string_lossy());
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut rotated: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&prefix) && !name.ends_with(UNFINISHED))
        .map(|name| dir.join(name.trim_end_matches(GZIP)))
        .collect();
    // The stamp sorts by time.
    rotated.sort();
    rotated.dedup();
    rotated
}

/// Keeps the newest files, the current one included.
fn prune(spec: &LogSpec) {
    let mut rotated = put_aside(spec);
    let keep = usize::try_from(spec.max_files.saturating_sub(1)).unwrap_or(usize::MAX);
    let surplus = rotated.len().saturating_sub(keep);
    for path in rotated.drain(..surplus) {
        let compressed = PathBuf::from(format!("{}{GZIP}", path.display()));
        for path in [path, compressed] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                super::complain(&format!("atoll shim: removing {}: {error}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn at() -> Timestamp {
        "2026-01-02T03:04:05.000000006Z".parse().unwrap()
    }

    fn log(max_bytes: u64, max_files: u32) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let spec = LogSpec { path: dir.path().join("0.log"), max_bytes, max_files };
        let log = Log::open(&spec).unwrap();
        (dir, log)
    }

    #[test]
    fn a_line_is_written_when_it_is_complete() {
        let (dir, mut log) = log(1 << 20, 5);
        log.feed(Stream::Stdout, b"hel", at());
        log.feed(Stream::Stderr, b"oops\n", at());
        log.feed(Stream::Stdout, b"lo\r", at());
        log.feed(Stream::Stdout, b"\n\nrest", at());
        log.finish(Stream::Stdout, at());
        let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
        let stamp = "2026-01-02T03:04:05.000000006Z";
        assert_eq!(
            text,
            format!(
                "{stamp} stderr F oops\n{stamp} stdout F hello\n{stamp} stdout F \n\
                 {stamp} stdout P rest\n"
            )
        );
    }

    #[test]
    fn a_long_line_is_cut_into_partial_pieces() {
        let (dir, mut log) = log(1 << 20, 5);
        let line = "x".repeat(LINE_BYTES_MAX * 2 + 3);
        log.feed(Stream::Stdout, format!("{line}\n").as_bytes(), at());
        let text = fs::read_to_string(dir.path().join("0.log")).unwrap();
        let tags: Vec<&str> = text.lines().map(|l| l.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "P", "F"]);
        let joined: String = text.lines().map(|l| l.split(' ').nth(3).unwrap()).collect();
        assert_eq!(joined, line);
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_loses_no_line_between() {
        let (dir, mut log) = log(200, 3);
        for number in 0..40 {
            log.feed(Stream::Stdout, format!("line {number:02}\n").as_bytes(), at());
            log.compressor.wait();
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let compressed: Vec<bool> = names.iter().map(|name| name.ends_with(GZIP)).collect();
        assert_eq!(compressed, [false, true, false], "all but the newest: {names:?}");
        let mut last = String::new();
        for name in names[1..].iter().chain(&names[..1]) {
            let file = fs::File::open(dir.path().join(name)).unwrap();
            if name.ends_with(GZIP) {
                flate2::read::GzDecoder::new(file).read_to_string(&mut last).unwrap();
            } else {
                { file }.read_to_string(&mut last).unwrap();
            }
        }
        let numbers: Vec<u32> =
            last.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers.last(), Some(&39));
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "{numbers:?}");
    }
}
