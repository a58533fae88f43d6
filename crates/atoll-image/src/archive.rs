//! Images from files: what `docker save` writes, and OCI layouts in a tar.

mod files;

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;
use tokio::sync::watch;

use crate::config::{ImportRequest, Limits, Progress};
use crate::digest;
use crate::error::Error;
use crate::image::{ImageInfo, Layer};
use crate::layer::Layers;
use crate::manifest::{
    self, CONFIG_BYTES_MAX, Descriptor, MANIFEST_BYTES_MAX, Manifest, Parsed, Platform,
};
use crate::reference::Reference;

use files::Files;

/// Indexes within indexes.
const DEPTH_MAX: u32 = 4;

/// What a read of the archive goes into.
struct Target<'a> {
    layers: &'a Layers,
    limits: Limits,
    progress: &'a watch::Sender<Progress>,
}

struct Archive {
    files: Files,
}

/// An image of the archive whose layers are yet to be unpacked.
struct Described {
    tags: Vec<String>,
    digest: String,
    config_digest: String,
    config: Vec<u8>,
    /// Names of files, lowest layer first.
    blobs: Vec<String>,
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
    limits: Limits,
    scratch: &Path,
    request: ImportRequest,
    progress: &watch::Sender<Progress>,
) -> Result<Vec<ImageInfo>, Error> {
    let ImportRequest { file, label, name } = request;
    let name = name.map(|name| name.parse::<Reference>()).transpose()?;
    let archive = Archive { files: Files::open(file, &label, scratch, limits)? };
    let mut found = if archive.files.has("index.json") {
        archive.describe_oci()?
    } else if archive.files.has("manifest.json") {
        archive.describe_docker()?
    } else {
        return Err(archive.files.error(
            "it holds neither index.json nor manifest.json, so it is no archive of images; \
             `docker save` and `skopeo copy … oci-archive:FILE` write such archives",
        ));
    };
    match (name, found.as_mut_slice()) {
        (_, []) => return Err(archive.files.error("it holds no image")),
        (None, _) => {}
        (Some(name), [only]) => only.tags = vec![name.to_string()],
        (Some(name), several) => {
            let count = several.len();
            return Err(archive
                .files
                .error(&format!("it holds {count} images, which cannot all be called {name}")));
        }
    }
    let target = Target { layers, limits, progress };
    found.into_iter().map(|image| archive.unpack(&target, image)).collect()
}

impl Archive {
    fn label(&self) -> String {
        self.files.label()
    }

    /// A blob of a layout, checked against its name.
    fn blob(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let name = blob_name(&descriptor.digest);
        let bytes = self.files.bytes(&name, bytes_max)?;
        let actual = digest::of(&bytes);
        if actual == descriptor.digest {
            return Ok(bytes);
        }
        Err(Error::WrongDigest {
            image: self.label(),
            what: format!("{name} in the archive"),
            expected: descriptor.digest.clone(),
            actual,
        })
    }

    fn describe_docker(&self) -> Result<Vec<Described>, Error> {
        let text = self.files.bytes("manifest.json", MANIFEST_BYTES_MAX)?;
        let list: Vec<DockerImage> = serde_json::from_slice(&text)
            .map_err(|e| self.files.error(&format!("its manifest.json is not valid: {e}")))?;
        let mut images = Vec::new();
        for image in list {
            let config = self.files.bytes(&image.config, CONFIG_BYTES_MAX)?;
            let digest = digest::of(&config);
            images.push(Described {
                tags: full_names(image.repo_tags.unwrap_or_default())?,
                digest: digest.clone(),
                config_digest: digest,
                config,
                blobs: image.layers,
            });
        }
        Ok(images)
    }

    fn describe_oci(&self) -> Result<Vec<Described>, Error> {
        let text = self.files.bytes("index.json", MANIFEST_BYTES_MAX)?;
        let Parsed::Index(entries) = manifest::parse(&self.label(), &text)? else {
            return Err(self.files.error("its index.json is no index"));
        };
        // Entries for other machines and what is no image (attestations) count only when
        // there is nothing else, so that the error can name them.
        let fits = |entry: &Descriptor| entry.platform.as_ref().is_none_or(Platform::is_here);
        let chosen: Vec<&Descriptor> = entries.iter().filter(|entry| fits(entry)).collect();
        if chosen.is_empty() {
            return manifest::select(&self.label(), entries).map(|_| Vec::new());
        }
        // `docker save` writes both forms; the names are in its own.
        let named = self.docker_names();
        let single = chosen.len() == 1;
        let mut images: Vec<Described> = Vec::new();
        for entry in chosen {
            let mut tags = names_of(entry)?;
            if tags.is_empty() && single {
                tags.clone_from(&named);
            }
            let (digest, manifest) = self.choose(entry, DEPTH_MAX)?;
            if let Some(known) = images.iter_mut().find(|i| i.digest == digest) {
                known.tags.extend(tags);
                known.tags.sort();
                known.tags.dedup();
                continue;
            }
            images.push(Described {
                tags,
                digest,
                config: self.blob(&manifest.config, CONFIG_BYTES_MAX)?,
                config_digest: manifest.config.digest,
                blobs: manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect(),
            });
        }
        Ok(images)
    }

    fn docker_names(&self) -> Vec<String> {
        let names = || -> Option<Vec<String>> {
            let text = self.files.bytes("manifest.json", MANIFEST_BYTES_MAX).ok()?;
            let list: Vec<DockerImage> = serde_json::from_slice(&text).ok()?;
            let [image] = list.as_slice() else { return None };
            full_names(image.repo_tags.clone().unwrap_or_default()).ok()
        };
        names().unwrap_or_default()
    }

    /// The manifest for this machine behind an entry.
    fn choose(&self, entry: &Descriptor, depth: u32) -> Result<(String, Manifest), Error> {
        if depth == 0 {
            return Err(self.files.error("its indexes are nested too deeply"));
        }
        let text = self.blob(entry, MANIFEST_BYTES_MAX)?;
        match manifest::parse(&self.label(), &text)? {
            Parsed::Manifest(found) => Ok((entry.digest.clone(), found)),
            Parsed::Index(entries) => {
                let chosen = manifest::select(&self.label(), entries)?;
                self.choose(&chosen, depth - 1)
            }
        }
    }

    fn unpack(&self, target: &Target<'_>, image: Described) -> Result<ImageInfo, Error> {
        let Described { tags, digest, config_digest, config, blobs } = image;
        let label = tags.first().cloned().unwrap_or_else(|| self.label());
        let (config, diff_ids) = manifest::parse_config(&label, &config)?;
        let invalid =
            |reason| Error::Invalid { image: label.clone(), what: "its manifest".into(), reason };
        if diff_ids.len() != blobs.len() {
            let counts = format!("{} layers, but {} diffIDs", blobs.len(), diff_ids.len());
            return Err(invalid(counts));
        }
        if blobs.len() > target.limits.layers_max {
            let max = target.limits.layers_max;
            return Err(invalid(format!("{} layers are more than {max}", blobs.len())));
        }
        let missing: HashSet<usize> =
            (0..blobs.len()).filter(|at| target.layers.get(&diff_ids[*at]).is_none()).collect();
        let mut total_bytes = 0;
        for at in &missing {
            total_bytes += self.files.size(&blobs[*at])?;
        }
        target.progress.send_modify(|p| {
            p.layers += blobs.len();
            p.layers_unpacked += blobs.len() - missing.len();
            p.total_bytes += total_bytes;
        });
        let mut unpacked: Vec<Layer> = Vec::new();
        for (at, (diff_id, blob)) in diff_ids.iter().zip(&blobs).enumerate() {
            let layer = match target.layers.get(diff_id) {
                Some(layer) => layer,
                None => {
                    let reader = self.files.reader(blob, Some(target.progress.clone()))?;
                    target.layers.unpack(&label, diff_id, reader)?
                }
            };
            unpacked.push(layer);
            if missing.contains(&at) {
                target.progress.send_modify(|p| p.layers_unpacked += 1);
            }
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
