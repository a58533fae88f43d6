//! The file of an audit log: one writer behind a bounded queue, and rotation by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinHandle;

use crate::config::Clock;

/// Lines that wait for the writer; upstream's number. When there are more, requests wait.
const LINES_MAX: usize = 10_000;
/// How long a request waits for room; then its event is dropped.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Lines that are written before what is buffered goes to the file, at most.
const BATCH_LINES_MAX: usize = 1000;
/// Size at which a file is rotated when nothing is said; upstream's number.
const SIZE_MB: u64 = 100;

/// Where the log is and what is kept of it. Numbers of 0 mean as in kube-apiserver's flags.
#[derive(Debug, Clone, Default)]
pub struct LogConfig {
    /// `-` is standard output.
    pub path: PathBuf,
    /// Megabytes of a file before the next one begins; 0 for 100.
    pub max_size_mb: u64,
    /// Old files that are kept; 0 for all.
    pub max_backups: usize,
    /// Days that old files are kept; 0 for ever.
    pub max_age_days: i64,
}

/// The log as requests see it.
pub(super) struct Log {
    lines: Mutex<Option<Sender<Vec<u8>>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn start(config: &LogConfig, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let output = Output::open(config.clone(), clock)?;
        let (lines, queue) = mpsc::channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        let writer = tokio::task::spawn_blocking(move || write_all(queue, output, &counted));
        Ok(Self { lines: Mutex::new(Some(lines)), writer: Mutex::new(Some(writer)), dropped })
    }

    /// Hands a line to the writer. Waits a moment when there is no room, then drops it.
    pub(super) async fn write(&self, line: Vec<u8>) {
        let Some(lines) = self.sender() else { return };
        if let Err(error) = lines.send_timeout(line, WAIT_MAX).await {
            self.count(&error.to_string());
        }
    }

    /// The same where nothing can wait: at the end of a stream.
    pub(super) fn write_now(&self, line: Vec<u8>) {
        let Some(lines) = self.sender() else { return };
        if let Err(error) = lines.try_send(line) {
            self.count(&error.to_string());
        }
    }

    fn sender(&self) -> Option<Sender<Vec<u8>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, error: &str) {
        let before = self.dropped.fetch_add(1, Ordering::Relaxed);
        // Said at powers of two, so that a full disk does not fill another.
        if (before + 1).is_power_of_two() {
            tracing::error!(error, dropped = before + 1, "an audit event was dropped");
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) async fn close(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && let Err(error) = writer.await
        {
            tracing::error!(%error, "the writer of the audit log failed");
        }
    }
}

fn write_all(mut queue: Receiver<Vec<u8>>, mut output: Output, dropped: &AtomicU64) {
    while let Some(line) = queue.blocking_recv() {
        let mut lines = 1;
        let mut result = output.line(&line);
        while result.is_ok()
            && lines < BATCH_LINES_MAX
            && let Ok(line) = queue.try_recv()
        {
            result = output.line(&line);
            lines += 1;
        }
        if let Err(error) = result.and_then(|()| output.flush()) {
            let before = dropped.fetch_add(1, Ordering::Relaxed);
            if (before + 1).is_power_of_two() {
                tracing::error!(%error, "the audit log cannot be written");
            }
        }
    }
}

/// The open file.
struct Output {
    config: LogConfig,
    clock: Arc<dyn Clock>,
    sink: Sink,
    bytes: u64,
}

enum Sink {
    Standard,
    File(BufWriter<File>),
}

impl Output {
    fn open(config: LogConfig, clock: Arc<dyn Clock>) -> io::Result<Self> {
        if config.path == Path::new("-") {
            return Ok(Self { config, clock, sink: Sink::Standard, bytes: 0 });
        }
        let (file, bytes) = open(&config.path)?;
        Ok(Self { config, clock, sink: Sink::File(BufWriter::new(file)), bytes })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.size_max() {
            self.rotate()?;
        }
        match &mut self.sink {
            Sink::Standard => io::stdout().lock().write_all(line)?,
            Sink::File(file) => {
                file.write_all(line)?;
                self.bytes += length;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Standard => io::stdout().lock().flush(),
            Sink::File(file) => file.flush(),
        }
    }

    fn size_max(&self) -> u64 {
        let megabytes =
            if self.config.max_size_mb == 0 { SIZE_MB } else { self.config.max_size_mb };
        megabytes.saturating_mul(1024 * 1024)
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        let now = self.clock.now();
        fs::rename(&self.config.path, backup_path(&self.config.path, now))?;
        let (file, bytes) = open(&self.config.path)?;
        self.sink = Sink::File(BufWriter::new(file));
        self.bytes = bytes;
        if let Err(error) = self.prune(now) {
            tracing::warn!(%error, "old audit logs could not be removed");
        }
        Ok(())
    }

    /// Removes old files beyond their number or age.
    fn prune(&self, now: Timestamp) -> io::Result<()> {
        let mut backups = backups(&self.config.path)?;
        backups.sort();
        let surplus = match self.config.max_backups {
            0 => 0,
            most => backups.len().saturating_sub(most),
        };
        let age = SignedDuration::from_hours(self.config.max_age_days.saturating_mul(24));
        let oldest = now.checked_sub(age).ok().filter(|_| self.config.max_age_days > 0);
        for (index, (stamp, path)) in backups.iter().enumerate() {
            let outlived = oldest.is_some_and(|oldest| *stamp < text(oldest));
            if index < surplus || outlived {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    // Whoever reads it sees what objects hold.
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// Sorts as time does; upstream's form.
fn text(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H-%M-%S%.3f").to_string()
}

/// `audit.log` of a time is `audit-2026-01-02T03-04-05.678.log`.
fn backup_path(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = name_parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", text(at)))
}

fn name_parts(path: &Path) -> (String, String) {
    let part =
        |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = part(path.extension()).map(|extension| format!(".{extension}"));
    (part(path.file_stem()).unwrap_or_default(), extension.unwrap_or_default())
}

/// The old files of a log with their times.
fn backups(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let (stem, extension) = name_parts(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&format!("{stem}-"))
            .and_then(|rest| rest.strip_suffix(&extension))
            .filter(|stamp| stamp.len() == 23 && stamp.get(10..11) == Some("T"));
        if let Some(stamp) = stamp {
            found.push((stamp.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SystemClock;

    #[tokio::test]
    async fn a_full_file_is_put_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit.log");
        let config =
            LogConfig { path: path.clone(), max_size_mb: 1, max_backups: 2, max_age_days: 0 };
        let log = Log::start(&config, Arc::new(SystemClock)).unwrap();
        let line = vec![b'x'; 700 * 1024];
        for _ in 0..5 {
            log.write(line.clone()).await;
            // Names differ by milliseconds.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        log.close().await;
        assert_eq!(fs::metadata(&path).unwrap().len(), 700 * 1024);
        assert_eq!(backups(&path).unwrap().len(), 2);
        assert_eq!(log.dropped(), 0);
    }

    #[tokio::test]
    async fn a_writer_that_is_stuck_holds_nobody_for_long() {
        let (lines, _queue) = mpsc::channel(1);
        let log = Log {
            lines: Mutex::new(Some(lines)),
            writer: Mutex::new(None),
            dropped: Arc::default(),
        };
        let started = std::time::Instant::now();
        log.write(vec![1]).await;
        log.write(vec![2]).await;
        log.write_now(vec![3]);
        assert_eq!(log.dropped(), 2);
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
