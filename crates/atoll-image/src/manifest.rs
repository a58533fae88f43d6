//! Manifests, indexes and configurations, as OCI and Docker write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::image::ImageConfig;

/// What a registry is asked for, best first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";

/// Largest manifest or index that is read.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Largest configuration.
pub(crate) const CONFIG_BYTES_MAX: u64 = 8 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: String,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
    pub(crate) os: String,
    #[serde(default)]
    pub(crate) variant: Option<String>,
}

impl Platform {
    pub(crate) fn is_here(&self) -> bool {
        self.os == "linux" && self.architecture == architecture()
    }
}

/// A manifest or an index: which one is told by what is in it.
#[derive(Debug, Deserialize)]
pub(crate) struct Document {
    #[serde(default)]
    pub(crate) config: Option<Descriptor>,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    #[serde(default, rename = "schemaVersion")]
    schema_version: u32,
}

/// What one platform's image consists of.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

pub(crate) enum Parsed {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// This machine's architecture in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) fn parse(image: &str, bytes: &[u8]) -> Result<Parsed, Error> {
    let invalid = |reason: String| Error::Invalid {
        image: image.to_owned(),
        what: "its manifest".to_owned(),
        reason,
    };
    let document: Document = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    if document.schema_version == 1 {
        return Err(invalid(
            "it is of the old version 1, which names no checkable layers; push the image again \
             with a current tool"
                .to_owned(),
        ));
    }
    for descriptor in document.layers.iter().chain(&document.config).chain(&document.manifests) {
        if crate::reference::parse_digest(&descriptor.digest).is_none() {
            return Err(invalid(format!("{:?} is no sha256 digest", descriptor.digest)));
        }
    }
    match document.config {
        Some(config) => Ok(Parsed::Manifest(Manifest { config, layers: document.layers })),
        None if !document.manifests.is_empty() => Ok(Parsed::Index(document.manifests)),
        None => Err(invalid("it is neither a manifest nor an index".to_owned())),
    }
}

/// The entry for this machine.
pub(crate) fn select(image: &str, entries: Vec<Descriptor>) -> Result<Descriptor, Error> {
    let describe = |d: &Descriptor| {
        d.platform.as_ref().map_or("unnamed".to_owned(), |p| format!("{}/{}", p.os, p.architecture))
    };
    let mut offered: Vec<String> =
        entries.iter().map(&describe).filter(|p| p != "unknown/unknown").collect();
    offered.sort();
    offered.dedup();
    let count = entries.len();
    let wanted = architecture();
    let fits = |d: &Descriptor| d.platform.as_ref().is_some_and(Platform::is_here);
    entries.into_iter().find(|d| fits(d) || (count == 1 && d.platform.is_none())).ok_or_else(|| {
        Error::NoPlatform {
            image: image.to_owned(),
            platform: format!("linux/{wanted}"),
            available: offered.join(", "),
        }
    })
}

/// The parts of an image's configuration that are used.
#[derive(Debug, Deserialize)]
struct RawConfig {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Debug, Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    stop_signal: Option<String>,
    #[serde(default)]
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// A manifest that no index leads to names its platform in the configuration alone.
fn fits_here(image: &str, raw: &RawConfig) -> Result<(), Error> {
    let os = if raw.os.is_empty() { "linux" } else { &raw.os };
    let wanted = architecture();
    let own = if raw.architecture.is_empty() { wanted } else { &raw.architecture };
    if (os, own) == ("linux", wanted) {
        return Ok(());
    }
    Err(Error::NoPlatform {
        image: image.to_owned(),
        platform: format!("linux/{wanted}"),
        available: format!("{os}/{own}"),
    })
}

/// The configuration and the layers' diffIDs.
pub(crate) fn parse_config(image: &str, bytes: &[u8]) -> Result<(ImageConfig, Vec<String>), Error> {
    let invalid = |reason: String| Error::Invalid {
        image: image.to_owned(),
        what: "its configuration".to_owned(),
        reason,
    };
    let raw: RawConfig = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    fits_here(image, &raw)?;
    for diff_id in &raw.rootfs.diff_ids {
        if crate::reference::parse_digest(diff_id).is_none() {
            return Err(invalid(format!("{diff_id:?} is no sha256 digest")));
        }
    }
    let run = raw.config.unwrap_or_default();
    let split = |line: String| match line.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (line, String::new()),
    };
    let config = ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env: run.env.unwrap_or_default().into_iter().map(split).collect(),
        user: run.user.unwrap_or_default(),
        working_dir: run.working_dir.unwrap_or_default(),
        stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
        exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: run.volumes.unwrap_or_default().into_keys().collect(),
        labels: run.labels.unwrap_or_default(),
    };
    Ok((config, raw.rootfs.diff_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn entry(platform: Option<(&str, &str)>) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: DIGEST.to_owned(),
            size: 1,
            platform: platform.map(|(os, architecture)| Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: None,
            }),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn an_image_for_other_machines_is_refused_with_what_there_is() {
        let entries = vec![entry(Some(("linux", "s390x"))), entry(Some(("unknown", "unknown")))];
        let error = select("a", entries).unwrap_err();
        assert!(matches!(error, Error::NoPlatform { available, .. } if available == "linux/s390x"));
    }

    #[test]
    fn a_digest_that_is_a_path_is_refused() {
        let text =
            r#"{"schemaVersion":2,"config":{"digest":"sha256:../../etc/passwd"},"layers":[]}"#;
        assert!(matches!(parse("a", text.as_bytes()), Err(Error::Invalid { .. })));
    }

    #[test]
    fn a_configuration_for_other_machines_is_refused() {
        let text = r#"{"architecture":"s390x","os":"linux","rootfs":{"diff_ids":[]}}"#;
        let error = parse_config("a", text.as_bytes()).unwrap_err();
        assert!(matches!(error, Error::NoPlatform { available, .. } if available == "linux/s390x"));
    }

    #[test]
    fn reads_the_configuration_with_nulls() {
        let text = r#"{"config":{"Cmd":["sh"],"Entrypoint":null,"Env":["A=b=c"],"ExposedPorts":
            {"80/tcp":{}},"User":"node"},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let (config, _) = parse_config("a", text.as_bytes()).unwrap();
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!((config.user.as_str(), config.exposed_ports.len()), ("node", 1));
    }
}
