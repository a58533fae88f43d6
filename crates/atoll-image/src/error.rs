//! Everything that can go wrong with images, by what failed to happen.

use std::io;
use std::path::PathBuf;

use crate::reference::InvalidReference;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An error names the image, keeps its cause, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod's `InvalidImageName`.
    #[error(transparent)]
    InvalidName(#[from] InvalidReference),

    /// The pod's `ErrImageNeverPull`.
    #[error("Container image {image:?} is not present with pull policy of Never")]
    NeverPull { image: String },

    #[error("image {image} is not on this node; pull it or import it with `atoll image import`")]
    NotPresent { image: String },

    #[error(
        "image {image} was not found at {registry} ({reason}); check its name and tag, or import \
         it with `atoll image import`"
    )]
    NotFound { image: String, registry: String, reason: String },

    #[error(
        "{registry} refused to give out image {image} ({reason}); check that it exists and give \
         the pod an imagePullSecret for that registry"
    )]
    Unauthorized { image: String, registry: String, reason: String },

    #[error(
        "image {image} is not on this node and {registry} cannot be reached; check the network, \
         or import it with `atoll image import`"
    )]
    Unreachable { image: String, registry: String, source: BoxError },

    #[error("{registry} answered {reason} when asked for image {image}; it may work later")]
    Registry { image: String, registry: String, reason: String },

    #[error("image {image}: {what} has digest {actual}, expected {expected}; it was not stored")]
    WrongDigest { image: String, what: String, expected: String, actual: String },

    #[error(
        "image {image}: {what} ended after {actual} of {expected} bytes; a new try goes on \
             from there"
    )]
    Truncated { image: String, what: String, expected: u64, actual: u64 },

    #[error("image {image}: {what} is not valid: {reason}")]
    Invalid { image: String, what: String, reason: String },

    /// The layer tries to escape, or is a bomb.
    #[error("image {image}: layer {layer} is refused: {reason}")]
    HostileLayer { image: String, layer: String, reason: String },

    #[error("image {image} has no variant for {platform}; it offers {available}")]
    NoPlatform { image: String, platform: String, available: String },

    #[error("archive {path}: {reason}")]
    Archive { path: PathBuf, reason: String },

    #[error("image {image} is in use and cannot be removed")]
    InUse { image: String },

    #[error("mounting image {image} on {path}: {what}")]
    Mount { image: String, path: PathBuf, what: &'static str, source: io::Error },

    #[error("{what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("{path} holds no valid {what}; move it away and import or pull the images again")]
    Corrupt { what: &'static str, path: PathBuf, source: serde_json::Error },

    #[error("the registry thread is gone")]
    Stopped,
}

impl Error {
    /// The registry or the network may answer differently later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::Registry { .. }
                | Error::Truncated { .. }
                | Error::Io { .. }
        )
    }

    /// Whether this is the pod's `InvalidImageName`.
    #[must_use]
    pub fn is_invalid_name(&self) -> bool {
        matches!(self, Error::InvalidName(_))
    }
}
