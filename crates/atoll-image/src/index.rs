//! `index.json`: which images are complete on this node.
//!
//! Several processes may use one store (the agent, `atoll image import`): every change
//! happens under a file lock, on what is on disk then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::access;
use crate::config::Credentials;
use crate::error::Error;
use crate::image::ImageInfo;

const INDEX_VERSION: u32 = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) image: ImageInfo,
    /// Seconds since 1970, rounded down to minutes so that reading rarely writes.
    #[serde(default)]
    pub(crate) last_used_at: i64,
    /// Only who shows one of these credentials may use the image without asking its
    /// registry; `None` when it is for everyone. See [`crate::access`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seals: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Content {
    version: u32,
    pub(crate) images: Vec<Entry>,
}

impl Content {
    /// By a full name with tag or digest, by a digest, or by the configuration's digest.
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.images.iter().find(|entry| {
            let image = &entry.image;
            image.tags.iter().any(|tag| tag == name)
                || image.repo_digests.iter().any(|digest| digest == name)
                || image.digest == name
                || image.config_digest == name
        })
    }

    /// Adds an image, or its new names to one that is known; a tag belongs to the newest.
    /// `shown` are the credentials that it took, if any.
    pub(crate) fn insert(
        &mut self,
        image: ImageInfo,
        shown: Option<&Credentials>,
        now: i64,
    ) -> ImageInfo {
        for entry in &mut self.images {
            if entry.image.digest != image.digest {
                entry.image.tags.retain(|tag| !image.tags.contains(tag));
            }
        }
        if let Some(entry) = self.images.iter_mut().find(|e| e.image.digest == image.digest) {
            merge(&mut entry.image.tags, image.tags);
            merge(&mut entry.image.repo_digests, image.repo_digests);
            entry.last_used_at = now;
            // Once for everyone, always for everyone.
            entry.seals =
                entry.seals.take().zip(shown).map(|(seals, shown)| access::add(seals, shown));
            return entry.image.clone();
        }
        let seals = shown.map(|shown| access::add(Vec::new(), shown));
        self.images.push(Entry { image: image.clone(), last_used_at: now, seals });
        image
    }
}

fn merge(into: &mut Vec<String>, more: Vec<String>) {
    into.extend(more);
    into.sort();
    into.dedup();
}

/// The file and its lock.
#[derive(Debug)]
pub(crate) struct Index {
    path: PathBuf,
    lock: PathBuf,
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::io(what, &path, source)
}

impl Index {
    pub(crate) fn new(root: &Path) -> Index {
        Index { path: root.join("index.json"), lock: root.join("index.lock") }
    }

    pub(crate) fn read(&self) -> Result<Content, Error> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
            Err(e) => return Err(io_error("reading", &self.path)(e)),
        };
        let corrupt =
            |source| Error::Corrupt { what: "image index", path: self.path.clone(), source };
        let content: Content = serde_json::from_slice(&text).map_err(corrupt)?;
        if content.version > INDEX_VERSION {
            return Err(corrupt(serde::de::Error::custom(format!(
                "version {} is newer than this program's {INDEX_VERSION}",
                content.version
            ))));
        }
        Ok(content)
    }

    /// Changes what is on disk, as a whole.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Content) -> T) -> Result<T, Error> {
        let lock = fs::File::create(&self.lock).map_err(io_error("opening", &self.lock))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .map_err(|e| io_error("locking", &self.lock)(e.into()))?;
        let mut content = self.read()?;
        let result = change(&mut content);
        content.version = INDEX_VERSION;
        let text = serde_json::to_vec_pretty(&content).map_err(|source| Error::Corrupt {
            what: "image index",
            path: self.path.clone(),
            source,
        })?;
        write_atomic(&self.path, &text)?;
        Ok(result)
    }
}

/// Writes beside the target, syncs and renames: old or new, never half.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    let beside = path.with_extension(format!("{:08x}.tmp", rand::random::<u32>()));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|error| {
        if let Err(left) = fs::remove_file(&beside) {
            tracing::debug!(%left, path = %beside.display(), "removing a temporary file");
        }
        io_error("writing", path)(error)
    })
}

/// Seconds since 1970.
#[allow(clippy::disallowed_methods, reason = "file ages are compared with the same clock")]
pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    elapsed.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}
