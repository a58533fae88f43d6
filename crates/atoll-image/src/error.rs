//! Everything that can go wrong with images, by what failed to happen.

use std::io;
use std::path::{Path, PathBuf};

use crate::reference::InvalidReference;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error names the image and keeps its cause; [`Error::remedy`] says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's `InvalidImageName`.
    #[error(transparent)]
    InvalidName(#[from] InvalidReference),

    /// The pod's `ErrImageNeverPull`.
    #[error("Container image {image:?} is not present with pull policy of Never")]
    NeverPull { image: String },

    #[error("image {image} is not on this node")]
    NotPresent { image: String },

    #[error("image {image} was not found at {registry} ({reason})")]
    NotFound { image: String, registry: String, reason: String },

    #[error("{registry} refused to give out image {image} ({reason})")]
    Unauthorized {
        image: String,
        registry: String,
        reason: String,
        /// Credentials were shown and not taken.
        tried: bool,
    },

    #[error("image {image} cannot be pulled: {registry} cannot be reached")]
    Unreachable { image: String, registry: String, source: BoxError },

    #[error("{registry} answered {reason} when asked for image {image}")]
    Registry { image: String, registry: String, reason: String },

    #[error("image {image}: {what} has digest {actual}, expected {expected}; it was not stored")]
    WrongDigest { image: String, what: String, expected: String, actual: String },

    #[error("image {image}: {what} ended after {actual} of {expected} bytes")]
    Truncated { image: String, what: String, expected: u64, actual: u64 },

    #[error("image {image}: {what} is not valid: {reason}")]
    Invalid { image: String, what: String, reason: String },

    /// The layer tries to escape, or is a bomb.
    #[error("image {image}: layer {layer} is refused: {reason}")]
    HostileLayer { image: String, layer: String, reason: String },

    #[error("image {image} has no variant for {platform}, only for {available}")]
    NoPlatform { image: String, platform: String, available: String },

    #[error("archive {path}: {reason}")]
    Archive { path: PathBuf, reason: String },

    #[error("image {image} is built in and cannot be removed")]
    Builtin { image: String },

    #[error("image {image}: unpacking {path}")]
    Unpack { image: String, path: PathBuf, source: io::Error },

    #[error("mounting image {image} on {path}: {what}")]
    Mount { image: String, path: PathBuf, what: &'static str, source: io::Error },

    #[error("no space is left for {path}")]
    NoSpace { path: PathBuf, source: io::Error },

    #[error("{what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("{path} holds no valid {what}")]
    Corrupt { what: &'static str, path: PathBuf, source: serde_json::Error },

    #[error("the registry thread is gone")]
    Stopped,
}

impl Error {
    /// A failed read or write; a full disk is told apart.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Error {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::NoSpace { path, source }
            }
            _ => Error::Io { what, path, source },
        }
    }

    /// What a person can do about it, where that is known.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Error::NeverPull { .. } | Error::NotPresent { .. } => {
                "pull it, or import it with `atoll image import`"
            }
            Error::NotFound { .. } => {
                "check its name and tag, or import it with `atoll image import`"
            }
            Error::Unauthorized { tried: false, .. } => {
                "check that it exists, and give the pod an imagePullSecret for that registry"
            }
            Error::Unauthorized { tried: true, .. } => {
                "check the user and password in the pod's imagePullSecret, and that they may read it"
            }
            Error::Unreachable { .. } => {
                "check the registry's name and the network, or import the image with `atoll image \
                 import`"
            }
            Error::Registry { .. } => "it may work later",
            Error::WrongDigest { .. } | Error::Invalid { .. } => {
                "build or push the image again, and check what lies between"
            }
            Error::Truncated { .. } => "a new try goes on from there",
            Error::HostileLayer { .. } => "do not trust this image, or build it again",
            Error::NoPlatform { .. } => "build or choose the image for this node's architecture",
            Error::NoSpace { .. } => {
                "free some, or remove images with `atoll image rm`, and try again"
            }
            Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "only the user of the node may do this, usually root"
            }
            Error::Corrupt { .. } => "move the file away and import or pull the images again",
            _ => return None,
        })
    }

    /// The error, its causes, and what to do, in one line.
    #[must_use]
    pub fn in_full(&self) -> String {
        let mut text = self.causes();
        if let Some(remedy) = self.remedy() {
            text.push_str("; ");
            text.push_str(remedy);
        }
        text
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn causes(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let said = cause.to_string();
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            source = cause.source();
        }
        text
    }

    /// The registry or the network may answer differently later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::Registry { .. }
                | Error::Truncated { .. }
                | Error::NoSpace { .. }
                | Error::Io { .. }
        )
    }

    /// Whether this is the pod's `InvalidImageName`.
    #[must_use]
    pub fn is_invalid_name(&self) -> bool {
        matches!(self, Error::InvalidName(_))
    }
}
