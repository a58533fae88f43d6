//! What the store is given and what it answers with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::image::{ImageConfig, ImageInfo};

/// How a store is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// `<node root>/images`.
    pub root: PathBuf,
    pub registry: RegistryConfig,
    pub builtin: Vec<Builtin>,
    pub limits: Limits,
}

impl Config {
    /// The defaults for a store at `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Config {
        Config {
            root,
            registry: RegistryConfig::default(),
            builtin: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// `host[:port]` served without TLS, besides loopback.
    pub plain_http: Vec<String>,
    /// Registry (`docker.io`) → base URLs tried before it, in order.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// PEM files of further authorities; the system's are read too.
    pub extra_roots: Vec<PathBuf>,
    /// Network namespace in which all registry traffic runs, for nodes whose own
    /// namespace does not reach the registries (those on the machine's loopback).
    pub registry_netns: Option<PathBuf>,
}

/// An image that is a directory of this node, present whatever the pull policy.
#[derive(Debug, Clone)]
pub struct Builtin {
    /// `atoll.local/hello:latest`; every tag of its repository resolves to it.
    pub reference: String,
    /// Shown read-only as the lowest layer.
    pub rootfs: PathBuf,
    pub config: ImageConfig,
}

/// What a layer may unpack to before it counts as a bomb.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub layer_bytes_max: u64,
    pub layer_entries_max: u64,
    pub layers_max: usize,
    /// Layers downloaded or unpacked at once, per pull.
    pub parallel_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            layer_bytes_max: 32 << 30,
            layer_entries_max: 2_000_000,
            layers_max: 127,
            parallel_max: 3,
        }
    }
}

/// Name and secret for one registry. A token goes into `password` with an empty username.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Kubernetes' pull policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// The registry is asked for the digest; layers already here are not fetched again.
    Always,
    IfNotPresent,
    Never,
}

/// One wish for an image.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// As the user wrote it.
    pub image: String,
    pub policy: PullPolicy,
    /// Tried in order until one is accepted; anonymous when empty.
    pub credentials: Vec<Credentials>,
    /// The node's administrator pulls: whoever comes later may use the image without
    /// credentials.
    pub by_hand: bool,
}

/// An image that is now here, and how it came.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub image: ImageInfo,
    /// False when everything was here already.
    pub pulled: bool,
    /// Compressed bytes that were fetched.
    pub fetched_bytes: u64,
    pub elapsed: Duration,
}

/// How far a pull or an import is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub total_bytes: u64,
    pub fetched_bytes: u64,
    pub layers: usize,
    pub layers_unpacked: usize,
}

/// An archive of images to bring in.
#[derive(Debug)]
pub struct ImportRequest {
    /// Read at any place, so no pipe.
    pub file: std::fs::File,
    /// What errors call it.
    pub label: PathBuf,
    /// The one image in it gets this name instead of its own.
    pub name: Option<String>,
}

/// What an archive brought.
#[derive(Debug, Clone)]
pub struct Imported {
    /// With the names that the archive gives them, not those that they had before.
    pub images: Vec<ImageInfo>,
}

/// The directories of one container's root file system.
#[derive(Debug, Clone)]
pub struct MountDirs {
    /// Where the root file system appears; created.
    pub rootfs: PathBuf,
    /// What the container writes; created.
    pub upper: PathBuf,
    /// Overlayfs' own; on the same file system as `upper`; created.
    pub work: PathBuf,
}

/// A mounted root file system. It stays mounted when this is dropped: containers outlive
/// the agent. [`crate::ImageStore::unmount`] takes it down.
#[derive(Debug, Clone)]
pub struct Mounted {
    pub rootfs: PathBuf,
    pub image: ImageInfo,
}

/// When unused images go.
#[derive(Debug, Clone)]
pub struct GcPolicy {
    /// Start collecting at this use of the file system.
    pub high_percent: u8,
    /// And stop at this one.
    pub low_percent: u8,
    /// Younger than this since last used: kept.
    pub min_unused: Duration,
    /// Digests of images that containers use.
    pub in_use: Vec<String>,
}

/// What was collected.
#[derive(Debug, Clone, Default)]
pub struct GcReport {
    pub removed: Vec<String>,
    pub freed_bytes: u64,
}

/// A receiver of progress.
pub type ProgressSender = watch::Sender<Progress>;
