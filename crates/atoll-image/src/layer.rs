//! Unpacked layers: `layers/<diffID>/fs`, complete or absent.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Limits;
use crate::digest::{HashingReader, hex};
use crate::error::Error;
use crate::image::Layer;
use crate::index::write_atomic;
use crate::unpack::{self, Bounds, UnpackError};

/// How much longer than its files an archive may be: headers and padding.
pub(crate) const OVERHEAD_BYTES: u64 = 1 << 30;

/// All layers of a store.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    root: PathBuf,
    limits: Limits,
}

/// Beside each unpacked layer.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    size_bytes: u64,
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::io(what, &path, source)
}

impl Layers {
    pub(crate) fn new(root: &Path, limits: Limits) -> Layers {
        Layers { root: root.to_owned(), limits }
    }

    fn dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn path(&self, diff_id: &str) -> PathBuf {
        self.dir().join(hex(diff_id))
    }

    /// Its files.
    pub(crate) fn fs(&self, diff_id: &str) -> PathBuf {
        self.path(diff_id).join("fs")
    }

    /// The layer, when it is complete here.
    pub(crate) fn get(&self, diff_id: &str) -> Option<Layer> {
        let text = fs::read(self.path(diff_id).join("layer.json")).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        Some(Layer { diff_id: diff_id.to_owned(), size_bytes: record.size_bytes })
    }

    /// Unpacks an archive, compressed or not, and checks that it is the layer it should
    /// be. Blocks.
    pub(crate) fn unpack(
        &self,
        image: &str,
        diff_id: &str,
        archive: impl Read,
    ) -> Result<Layer, Error> {
        if let Some(layer) = self.get(diff_id) {
            return Ok(layer);
        }
        let scratch = self.root.join("tmp").join(format!("{:016x}", rand::random::<u64>()));
        let result = self.unpack_in(image, diff_id, archive, &scratch);
        if scratch.exists()
            && let Err(error) = fs::remove_dir_all(&scratch)
        {
            tracing::warn!(%error, path = %scratch.display(), "removing an unfinished layer");
        }
        result
    }

    fn unpack_in(
        &self,
        image: &str,
        diff_id: &str,
        archive: impl Read,
        scratch: &Path,
    ) -> Result<Layer, Error> {
        let files = scratch.join("fs");
        fs::create_dir_all(&files).map_err(io_error("creating", &files))?;
        let describe = |error: UnpackError| self.describe(image, diff_id, error);
        let bytes_max = self.limits.layer_bytes_max;
        let plain = decompress(archive).map_err(|e| describe(UnpackError::Damaged(e)))?;
        let mut reader = HashingReader::new(plain, bytes_max.saturating_add(OVERHEAD_BYTES));
        let bounds = Bounds { bytes_max, entries_max: self.limits.layer_entries_max };
        let unpacked = unpack::unpack(&mut reader, &files, bounds).map_err(describe)?;
        let actual = reader.finish().map_err(|e| describe(UnpackError::Damaged(e)))?;
        if actual != diff_id {
            return Err(Error::WrongDigest {
                image: image.to_owned(),
                what: "an unpacked layer".to_owned(),
                expected: diff_id.to_owned(),
                actual,
            });
        }
        let record = Record { version: 1, size_bytes: unpacked.bytes };
        let text = serde_json::to_vec(&record).map_err(|source| Error::Corrupt {
            what: "layer record",
            path: scratch.to_owned(),
            source,
        })?;
        write_atomic(&scratch.join("layer.json"), &text)?;
        // One sync of the file system for the whole layer, before its name appears.
        let handle = fs::File::open(scratch).map_err(io_error("opening", scratch))?;
        rustix::fs::syncfs(&handle).map_err(|e| io_error("syncing", scratch)(e.into()))?;
        let target = self.path(diff_id);
        fs::create_dir_all(self.dir()).map_err(io_error("creating", &target))?;
        match fs::rename(scratch, &target) {
            Ok(()) => {}
            // Another pull was faster.
            Err(_) if self.get(diff_id).is_some() => {}
            Err(error) => return Err(io_error("renaming", &target)(error)),
        }
        Ok(Layer { diff_id: diff_id.to_owned(), size_bytes: unpacked.bytes })
    }

    /// The diffIDs of all layers here.
    pub(crate) fn all(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir()) else { return Vec::new() };
        entries
            .filter_map(Result::ok)
            .filter_map(|e| e.file_name().into_string().ok())
            .map(|name| format!("sha256:{name}"))
            .filter(|name| crate::reference::parse_digest(name).is_some())
            .collect()
    }

    /// Removes it: out of sight first, so that a crash leaves no half layer.
    pub(crate) fn remove(&self, diff_id: &str) -> Result<(), Error> {
        let aside = self.root.join("tmp").join(format!("gone-{:016x}", rand::random::<u64>()));
        let path = self.path(diff_id);
        match fs::rename(&path, &aside) {
            Ok(()) => crate::tree::remove_tree(&aside).map_err(io_error("removing", &aside)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(io_error("removing", &path)(error)),
        }
    }

    fn describe(&self, image: &str, diff_id: &str, error: UnpackError) -> Error {
        let image = image.to_owned();
        let short = hex(diff_id).get(..12).unwrap_or(diff_id).to_owned();
        match error {
            UnpackError::Hostile(reason) => Error::HostileLayer { image, layer: short, reason },
            UnpackError::Damaged(e) if e.kind() == io::ErrorKind::FileTooLarge => {
                Error::HostileLayer { image, layer: short, reason: e.to_string() }
            }
            UnpackError::Damaged(e) => Error::Invalid {
                image,
                what: format!("layer {short}"),
                reason: format!("its archive is damaged: {e}"),
            },
            UnpackError::Write { path, source } => match Error::io("unpacking", &path, source) {
                Error::NoSpace { source, .. } => Error::NoSpace { path: self.root.clone(), source },
                Error::Io { path, source, .. } => Error::Unpack { image, path, source },
                other => other,
            },
        }
    }
}

/// By the first bytes; what is neither gzip nor zstd is taken as it is.
pub(crate) fn decompress<'a>(mut archive: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut start = Vec::with_capacity(4);
    archive.by_ref().take(4).read_to_end(&mut start)?;
    let kind = start.clone();
    let whole = io::Cursor::new(start).chain(archive);
    Ok(match kind.as_slice() {
        [0x1f, 0x8b, ..] => {
            let buffered = io::BufReader::with_capacity(64 * 1024, whole);
            Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
        }
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(whole)?),
        _ => Box::new(io::BufReader::with_capacity(64 * 1024, whole)),
    })
}
