//! Images from files: what `docker save` writes, and OCI layouts in a tar.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::digest;
use crate::error::Error;
use crate::image::{ImageInfo, Layer};
use crate::layer::Layers;
use crate::manifest::{self, CONFIG_BYTES_MAX, Descriptor, MANIFEST_BYTES_MAX, Parsed};
use crate::reference::Reference;

/// Files in an archive of images.
const FILES_MAX: usize = 10_000;

/// Indexes within indexes.
const DEPTH_MAX: u32 = 4;

/// Where a file lies in the archive, or which other it stands for.
enum Place {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

struct Archive {
    path: PathBuf,
    file: fs::File,
    files: HashMap<String, Place>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Unpacks every image of the archive; the caller lists them. Blocks.
pub(crate) fn import(
    layers: &Layers,
    scratch: &Path,
    path: &Path,
) -> Result<Vec<ImageInfo>, Error> {
    let mut archive = Archive::open(path, scratch)?;
    let images = if archive.files.contains_key("index.json") {
        archive.import_oci(layers)?
    } else if archive.files.contains_key("manifest.json") {
        archive.import_docker(layers)?
    } else {
        return Err(archive.error(
            "it holds neither index.json nor manifest.json; give it what `docker save` or \
             `skopeo copy … oci-archive:` writes",
        ));
    };
    if images.is_empty() {
        return Err(archive.error("it holds no image"));
    }
    Ok(images)
}

impl Archive {
    fn open(path: &Path, scratch: &Path) -> Result<Archive, Error> {
        let io_error = |source| Error::Io { what: "reading", path: path.to_owned(), source };
        let mut file = fs::File::open(path).map_err(io_error)?;
        if file.metadata().map_err(io_error)?.is_dir() {
            return Err(Error::Archive {
                path: path.to_owned(),
                reason: "it is a directory; pack it into a tar first".to_owned(),
            });
        }
        let mut start = [0u8; 2];
        if file.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b] {
            file = inflate(file, scratch).map_err(io_error)?;
        }
        let mut archive = Archive { path: path.to_owned(), file, files: HashMap::new() };
        archive.scan()?;
        Ok(archive)
    }

    fn error(&self, reason: &str) -> Error {
        Error::Archive { path: self.path.clone(), reason: reason.to_owned() }
    }

    fn scan(&mut self) -> Result<(), Error> {
        let damaged = |path: &Path, e: io::Error| Error::Archive {
            path: path.to_owned(),
            reason: format!("it is no complete tar archive: {e}"),
        };
        self.file.seek(SeekFrom::Start(0)).map_err(|e| damaged(&self.path, e))?;
        let length = self.file.metadata().map_err(|e| damaged(&self.path, e))?.len();
        let mut found = HashMap::new();
        let mut reader = tar::Archive::new(&self.file);
        for entry in reader.entries_with_seek().map_err(|e| damaged(&self.path, e))? {
            let entry = entry.map_err(|e| damaged(&self.path, e))?;
            let name = entry.path().map_err(|e| damaged(&self.path, e))?.into_owned();
            let name = normal(&name);
            let place = match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let (offset, size) = (entry.raw_file_position(), entry.size());
                    if offset.saturating_add(size) > length {
                        return Err(self.error(&format!("it ends in the middle of {name}")));
                    }
                    Place::Bytes { offset, size }
                }
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let Ok(Some(target)) = entry.link_name() else { continue };
                    let base = if entry.header().entry_type() == tar::EntryType::Link {
                        PathBuf::new()
                    } else {
                        Path::new(&name).parent().map(Path::to_owned).unwrap_or_default()
                    };
                    Place::Link(normal(&base.join(target)))
                }
                _ => continue,
            };
            if found.len() >= FILES_MAX {
                return Err(self.error(&format!("it holds more than {FILES_MAX} files")));
            }
            found.insert(name, place);
        }
        self.files = found;
        Ok(())
    }

    fn place(&self, name: &str) -> Result<(u64, u64), Error> {
        let mut at = normal(Path::new(name));
        for _ in 0..8 {
            match self.files.get(&at) {
                Some(Place::Bytes { offset, size }) => return Ok((*offset, *size)),
                Some(Place::Link(target)) => at.clone_from(target),
                None => break,
            }
        }
        Err(self.error(&format!("it lacks {name}; it was cut or is not complete")))
    }

    fn reader(&self, name: &str) -> Result<impl Read + use<>, Error> {
        let (offset, size) = self.place(name)?;
        let io_error = |source| Error::Io { what: "reading", path: self.path.clone(), source };
        let mut file = self.file.try_clone().map_err(io_error)?;
        file.seek(SeekFrom::Start(offset)).map_err(io_error)?;
        Ok(file.take(size))
    }

    fn bytes(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let (_, size) = self.place(name)?;
        if size > bytes_max {
            return Err(self.error(&format!("{name} is larger than {bytes_max} bytes")));
        }
        let mut bytes = Vec::new();
        self.reader(name)?.read_to_end(&mut bytes).map_err(|source| Error::Io {
            what: "reading",
            path: self.path.clone(),
            source,
        })?;
        Ok(bytes)
    }

    /// A blob of a layout, checked against its name.
    fn blob(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let bytes = self.bytes(&blob_name(&descriptor.digest), bytes_max)?;
        let actual = digest::of(&bytes);
        if actual == descriptor.digest {
            return Ok(bytes);
        }
        Err(Error::WrongDigest {
            image: self.path.display().to_string(),
            what: "a blob in the archive".to_owned(),
            expected: descriptor.digest.clone(),
            actual,
        })
    }

    fn import_docker(&mut self, layers: &Layers) -> Result<Vec<ImageInfo>, Error> {
        let text = self.bytes("manifest.json", MANIFEST_BYTES_MAX)?;
        let list: Vec<DockerImage> = serde_json::from_slice(&text)
            .map_err(|e| self.error(&format!("its manifest.json is not valid: {e}")))?;
        let mut images = Vec::new();
        for image in list {
            let tags = full_names(image.repo_tags.unwrap_or_default())?;
            let config = self.bytes(&image.config, CONFIG_BYTES_MAX)?;
            let digest = digest::of(&config);
            images.push(self.unpack(
                layers,
                tags,
                digest.clone(),
                digest,
                &config,
                &image.layers,
            )?);
        }
        Ok(images)
    }

    fn import_oci(&mut self, layers: &Layers) -> Result<Vec<ImageInfo>, Error> {
        let label = self.path.display().to_string();
        let text = self.bytes("index.json", MANIFEST_BYTES_MAX)?;
        let Parsed::Index(entries) = manifest::parse(&label, &text)? else {
            return Err(self.error("its index.json is no index"));
        };
        // `docker save` writes both forms; the names are in its own.
        let named = self.docker_names();
        let single = entries.len() == 1;
        let mut images: Vec<ImageInfo> = Vec::new();
        for entry in entries {
            let mut tags = names_of(&entry)?;
            let Some((digest, parsed)) = self.choose(&label, &entry, DEPTH_MAX)? else { continue };
            if tags.is_empty() && single {
                tags.clone_from(&named);
            }
            if let Some(known) = images.iter_mut().find(|i| i.digest == digest) {
                known.tags.extend(tags);
                continue;
            }
            let config = self.blob(&parsed.config, CONFIG_BYTES_MAX)?;
            let blobs: Vec<String> =
                parsed.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
            let config_digest = parsed.config.digest.clone();
            images.push(self.unpack(layers, tags, digest, config_digest, &config, &blobs)?);
        }
        Ok(images)
    }

    fn docker_names(&self) -> Vec<String> {
        let names = || -> Option<Vec<String>> {
            let text = self.bytes("manifest.json", MANIFEST_BYTES_MAX).ok()?;
            let list: Vec<DockerImage> = serde_json::from_slice(&text).ok()?;
            let [image] = list.as_slice() else { return None };
            full_names(image.repo_tags.clone().unwrap_or_default()).ok()
        };
        names().unwrap_or_default()
    }

    /// The manifest for this machine behind an entry; `None` when the entry is no image
    /// (attestations) or the archive leaves it out.
    fn choose(
        &self,
        label: &str,
        entry: &Descriptor,
        depth: u32,
    ) -> Result<Option<(String, manifest::Manifest)>, Error> {
        if depth == 0 {
            return Err(self.error("its indexes are nested too deeply"));
        }
        let text = self.blob(entry, MANIFEST_BYTES_MAX)?;
        match manifest::parse(label, &text)? {
            Parsed::Manifest(found) => Ok(Some((entry.digest.clone(), found))),
            Parsed::Index(entries) => {
                let chosen = manifest::select(label, entries)?;
                self.choose(label, &chosen, depth - 1)
            }
        }
    }

    fn unpack(
        &self,
        layers: &Layers,
        tags: Vec<String>,
        digest: String,
        config_digest: String,
        config: &[u8],
        blobs: &[String],
    ) -> Result<ImageInfo, Error> {
        let label = tags.first().cloned().unwrap_or_else(|| self.path.display().to_string());
        let (config, diff_ids) = manifest::parse_config(&label, config)?;
        if diff_ids.len() != blobs.len() {
            return Err(Error::Invalid {
                image: label,
                what: "its manifest".to_owned(),
                reason: format!("{} layers, but {} diffIDs", blobs.len(), diff_ids.len()),
            });
        }
        let mut unpacked: Vec<Layer> = Vec::new();
        for (diff_id, blob) in diff_ids.iter().zip(blobs) {
            unpacked.push(match layers.get(diff_id) {
                Some(layer) => layer,
                None => layers.unpack(&label, diff_id, self.reader(blob)?)?,
            });
        }
        Ok(ImageInfo {
            digest,
            config_digest,
            tags,
            repo_digests: Vec::new(),
            config,
            size_bytes: unpacked.iter().map(|layer| layer.size_bytes).sum(),
            layers: unpacked,
            builtin: false,
        })
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/sha256/{}", digest::hex(digest))
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

fn full_names(names: Vec<String>) -> Result<Vec<String>, Error> {
    let mut full = Vec::new();
    for name in names {
        full.push(name.parse::<Reference>()?.to_string());
    }
    full.sort();
    full.dedup();
    Ok(full)
}

/// Names in an index's annotations; a bare tag names nothing by itself.
fn names_of(entry: &Descriptor) -> Result<Vec<String>, Error> {
    let keys = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    let named = keys.iter().find_map(|key| {
        entry.annotations.get(*key).filter(|name| name.contains('/') || name.contains(':'))
    });
    full_names(named.cloned().into_iter().collect())
}

/// A compressed archive cannot be read out of order.
fn inflate(mut file: fs::File, scratch: &Path) -> io::Result<fs::File> {
    file.seek(SeekFrom::Start(0))?;
    fs::create_dir_all(scratch)?;
    let path = scratch.join(format!("archive-{:016x}", rand::random::<u64>()));
    let mut plain = fs::File::options().read(true).write(true).create_new(true).open(&path)?;
    // Without a name it is gone with its last user, whatever happens.
    fs::remove_file(&path)?;
    let mut decoder = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
    io::copy(&mut decoder, &mut plain)?;
    Ok(plain)
}
