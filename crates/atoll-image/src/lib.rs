//! Images: pulled from registries or imported from archives, kept once per layer, and
//! mounted as root file systems.
//!
//! [`ImageStore`] is the whole interface. It runs no container and keeps no credentials.
//!
//! ```text
//! ImageStore::open(Config) -> Result<ImageStore>                       (async)
//! store.ensure(&PullRequest, Option<watch::Sender<Progress>>) -> Result<Outcome>   (async)
//! store.import(&Path) -> Result<Imported>                              (async)
//! store.resolve("node:18-alpine" | "sha256:…") -> Result<Option<ImageInfo>>
//! store.mount(&ImageInfo, &MountDirs) -> Result<Mounted>               (async)
//! store.unmount(&Path) -> Result<()>                                   (async)
//! store.list() -> Vec<ImageInfo>
//! store.remove("name or digest") -> Result<()>                         (async)
//! store.gc(&GcPolicy) -> Result<GcReport>                              (async)
//! resolve_user(rootfs, "node:staff") -> Result<ResolvedUser>           (numbers and groups)
//! ```

pub mod error;
pub mod image;
pub mod reference;
pub mod store;

pub use error::Error;
pub use image::{ImageConfig, ImageInfo, Layer};
pub use reference::Reference;
pub use store::{
    Builtin, Config, Credentials, GcPolicy, GcReport, ImageStore, Imported, Limits, MountDirs,
    Mounted, Outcome, Progress, PullPolicy, PullRequest, RegistryConfig,
};
