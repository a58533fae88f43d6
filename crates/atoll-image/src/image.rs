//! What is known about an image on this node.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An image that is complete on this node: every layer is unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Digest of its manifest for this platform, `sha256:<hex>`. Names the image.
    pub digest: String,
    /// Digest of its configuration (`docker images` calls this the image id).
    pub config_digest: String,
    /// Full names with tag, `docker.io/library/node:18-alpine`, sorted.
    pub tags: Vec<String>,
    /// `docker.io/library/node@sha256:…`, sorted: manifest or index digests that it was
    /// pulled by.
    pub repo_digests: Vec<String>,
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Unpacked bytes of all layers.
    pub size_bytes: u64,
    /// A root directory given by the configuration instead of layers.
    pub builtin: bool,
}

/// How the image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value` split at the first `=`, in the image's order.
    pub env: Vec<(String, String)>,
    /// As written: `""`, `1000`, `node`, `1000:1000`, `node:staff`. Names are resolved
    /// against the mounted root.
    pub user: String,
    pub working_dir: String,
    /// `SIGTERM` or `15`; `None` when the image says nothing.
    pub stop_signal: Option<String>,
    /// `8080/tcp`.
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Digest of the uncompressed archive, `sha256:<hex>`; names the unpacked directory.
    pub diff_id: String,
    /// Bytes of its files when unpacked.
    pub size_bytes: u64,
}
