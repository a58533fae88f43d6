//! The desired pods on disk, so that an agent that starts without a server knows what to
//! keep running.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::error::Error;

/// Version of the file's format.
const VERSION: u32 = 1;

/// Changes of the desired pods within this time are written to disk together.
const GATHER: Duration = Duration::from_millis(200);
/// What could not be written is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);
/// That it cannot be written is said this often.
const REMIND: Duration = Duration::from_secs(60);

/// When the desired pods are written, and when it is said that they are not.
#[derive(Debug, Default)]
pub struct Pace {
    due: Option<Instant>,
    /// While it fails: when that was said last.
    said: Option<Instant>,
}

impl Pace {
    /// When what has changed is to be written.
    pub fn due(&mut self, now: Instant) -> Instant {
        let wait = if self.said.is_some() { RETRY } else { GATHER };
        *self.due.get_or_insert(now + wait)
    }

    /// Takes note of an attempt, and logs what is worth a line.
    pub fn attempted(&mut self, outcome: &Result<(), Error>, now: Instant) {
        self.due = None;
        match outcome {
            Ok(()) => {
                if self.said.take().is_some() {
                    tracing::info!("desired pods written to disk again");
                }
            }
            Err(error) if self.said.is_none_or(|said| now >= said + REMIND) => {
                self.said = Some(now);
                let error = crate::pod::image::with_sources(error);
                tracing::error!(error, "desired pods not written to disk; will retry");
            }
            Err(_said_already) => {}
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    pods: Vec<&'a Pod>,
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    pods: Vec<Pod>,
}

/// The pods of the last run; none when there was none.
pub fn load(path: &Path) -> Result<Vec<Arc<Pod>>, Error> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Io { what: "reading", path: path.into(), source }),
    };
    let read: Read = serde_json::from_slice(&bytes)
        .map_err(|source| Error::Checkpoint { path: path.into(), source })?;
    if read.version != VERSION {
        tracing::warn!(version = read.version, "pods of another version's file are not read");
        return Ok(Vec::new());
    }
    Ok(read.pods.into_iter().map(Arc::new).collect())
}

/// Replaces the file.
pub fn save(path: &Path, pods: &[Arc<Pod>]) -> Result<(), Error> {
    let fail = |what, path: &Path, source| Error::Io { what, path: path.into(), source };
    let written = Written { version: VERSION, pods: pods.iter().map(AsRef::as_ref).collect() };
    let text = serde_json::to_vec(&written)
        .map_err(|source| Error::Checkpoint { path: path.into(), source })?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|source| fail("creating", dir, source))?;
    }
    let new: PathBuf = path.with_extension("json.new");
    std::fs::write(&new, text).map_err(|source| fail("writing", &new, source))?;
    std::fs::rename(&new, path).map_err(|source| fail("replacing", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent/pods.json");
        assert!(load(&path).unwrap().is_empty());
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        save(&path, &[Arc::new(pod.clone())]).unwrap();
        assert_eq!(*load(&path).unwrap()[0], pod);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(load(&path), Err(Error::Checkpoint { .. })));
    }

    /// Log lines of this thread.
    #[derive(Clone, Default)]
    struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_said_once_a_minute_and_tried_every_five_seconds() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        let full = || {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            Err(Error::Io { what: "writing", path: "/full".into(), source })
        };
        let begun = Instant::now();
        let (mut pace, mut now, mut tries) = (Pace::default(), begun, 0);
        while now < begun + Duration::from_secs(150) {
            now = pace.due(now);
            // Something that happens meanwhile does not put it off.
            assert_eq!(pace.due(now), now);
            pace.attempted(&full(), now);
            tries += 1;
        }
        assert!((29..=32).contains(&tries), "{tries} attempts in 150 s");
        pace.attempted(&Ok(()), now);
        assert_eq!(pace.due(now), now + GATHER);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("not written to disk").count(), 3, "{text}");
        assert_eq!(text.matches("written to disk again").count(), 1, "{text}");
    }
}
