//! Images: pulled from registries or imported from archives, kept once per layer, and
//! mounted as root file systems.
//!
//! [`ImageStore`] is the whole interface. It runs no container and keeps no credentials.

mod access;
mod archive;
mod blob;
pub mod config;
mod digest;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
mod gc;
pub mod image;
mod index;
mod layer;
mod manifest;
mod mount;
mod pull;
pub mod reference;
mod registry;
pub mod store;
mod tree;
mod unpack;
pub mod user;

pub use config::{
    Builtin, Config, Credentials, GcPolicy, GcReport, ImportRequest, Imported, Limits, MountDirs,
    Mounted, Outcome, Progress, ProgressSender, PullPolicy, PullRequest, RegistryConfig,
};
pub use error::Error;
pub use image::{ImageConfig, ImageInfo, Layer};
pub use reference::Reference;
pub use store::ImageStore;
pub use tree::remove_tree;
pub use user::{ResolvedUser, resolve_user};
