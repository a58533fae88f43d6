//! The image store: one directory of unpacked layers and an index of images.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use crate::access;
use crate::archive;
use crate::config::{
    Config, Credentials, GcPolicy, GcReport, ImportRequest, Imported, MountDirs, Mounted, Outcome,
    Progress, PullPolicy, PullRequest,
};
use crate::error::Error;
use crate::gc::{self, Lease};
use crate::image::{ImageConfig, ImageInfo};
use crate::index::{self, Index};
use crate::layer::Layers;
use crate::mount;
use crate::pull::Puller;
use crate::reference::Reference;
use crate::unpack;

/// How stale an image's last use may be in the index: each refresh is a write.
const LAST_USED_GRAIN: Duration = Duration::from_secs(60);

/// Pulls of images at once; further ones wait their turn.
const PULLS_MAX: usize = 4;

/// The store. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    index: Index,
    layers: Layers,
    puller: Puller,
    pulls: tokio::sync::Semaphore,
    /// One pull per name at a time: the second finds the first one's result.
    names: Mutex<std::collections::HashMap<String, Arc<Mutex<()>>>>,
}

/// Runs blocking work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io {
            what: "running blocking work",
            path: "/".into(),
            source: std::io::Error::other(error),
        }),
    }
}

impl ImageStore {
    /// Opens or creates the store, and clears what interrupted work left in it.
    pub async fn open(config: Config) -> Result<ImageStore, Error> {
        blocking(move || ImageStore::open_blocking(config)).await
    }

    fn open_blocking(config: Config) -> Result<ImageStore, Error> {
        for sub in ["blobs/sha256", "layers", "mounts", "tmp"] {
            let path = config.root.join(sub);
            fs::create_dir_all(&path).map_err(|source| Error::Io {
                what: "creating",
                path,
                source,
            })?;
        }
        protect(&config.root)?;
        let index = Index::new(&config.root);
        index.read()?;
        for builtin in &config.builtin {
            builtin.reference.parse::<Reference>()?;
        }
        let layers = Layers::new(&config.root, config.limits);
        if let Err(error) = clear_tmp(&config.root) {
            tracing::warn!(%error, "clearing unfinished layers");
        }
        let puller = Puller::new(&config, layers.clone());
        Ok(ImageStore {
            inner: Arc::new(Inner {
                config,
                index,
                layers,
                puller,
                pulls: tokio::sync::Semaphore::new(PULLS_MAX),
                names: Mutex::new(std::collections::HashMap::new()),
            }),
        })
    }

    /// Makes the image present according to the policy.
    pub async fn ensure(
        &self,
        request: &PullRequest,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<Outcome, Error> {
        let started = Instant::now();
        let reference: Reference = request.image.parse()?;
        if let Some(image) = self.builtin(&reference) {
            return Ok(present(image, started));
        }
        let known = self.usable(&request.image, request)?;
        match (request.policy, known) {
            (PullPolicy::Never, None) => {
                return Err(Error::NeverPull { image: request.image.clone() });
            }
            (PullPolicy::Never | PullPolicy::IfNotPresent, Some(image)) => {
                return Ok(present(image, started));
            }
            // A digest is what it names; there is nothing to ask.
            (PullPolicy::Always, Some(image)) if reference.digest.is_some() => {
                return Ok(present(image, started));
            }
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, None) => {}
        }
        self.pull(&reference, request, progress, started).await
    }

    async fn pull(
        &self,
        reference: &Reference,
        request: &PullRequest,
        progress: Option<watch::Sender<Progress>>,
        started: Instant,
    ) -> Result<Outcome, Error> {
        let name = reference.to_string();
        let turn = {
            let mut names = self.inner.names.lock().await;
            names.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(names.entry(name.clone()).or_default())
        };
        let _turn = turn.lock().await;
        if request.policy == PullPolicy::IfNotPresent
            && let Some(image) = self.usable(&name, request)?
        {
            return Ok(present(image, started));
        }
        let Ok(_slot) = self.inner.pulls.acquire().await else { return Err(Error::Stopped) };
        let root = self.inner.config.root.clone();
        let lease = Arc::new(blocking(move || Lease::take(&root)).await?);
        let progress = progress.unwrap_or_else(|| watch::Sender::new(Progress::default()));
        let pulled = self
            .inner
            .puller
            .pull(reference, &request.credentials, &progress, Arc::clone(&lease))
            .await?;
        let known = self.inner.index.read()?.find(&pulled.image.digest).is_some();
        let shown = pulled.shown.filter(|_| !request.by_hand);
        let image = self
            .inner
            .index
            .change(|content| content.insert(pulled.image, shown.as_ref(), index::now()))?;
        Ok(Outcome {
            image,
            pulled: !known || pulled.fetched_bytes > 0,
            fetched_bytes: pulled.fetched_bytes,
            elapsed: started.elapsed(),
        })
    }

    /// Brings every image of a `docker save` or OCI-layout archive in.
    pub async fn import(
        &self,
        request: ImportRequest,
        progress: Option<watch::Sender<Progress>>,
    ) -> Result<Imported, Error> {
        let this = self.clone();
        blocking(move || {
            let inner = &this.inner;
            let _lease = Lease::take(&inner.config.root)?;
            let scratch = inner.config.root.join("tmp");
            let progress = progress.unwrap_or_else(|| watch::Sender::new(Progress::default()));
            let limits = inner.config.limits;
            let found = archive::import(&inner.layers, limits, &scratch, request, &progress)?;
            let images = inner.index.change(|content| {
                let (mut images, now) = (Vec::new(), index::now());
                for image in found {
                    let own = image.tags.clone();
                    images.push(ImageInfo { tags: own, ..content.insert(image, None, now) });
                }
                images
            })?;
            Ok(Imported { images })
        })
        .await
    }

    fn usable(&self, name: &str, request: &PullRequest) -> Result<Option<ImageInfo>, Error> {
        let Some(image) = self.resolve(name)? else { return Ok(None) };
        Ok(self.is_open_to(&image, &request.credentials)?.then_some(image))
    }

    /// Whether the image may be used without asking its registry: it came without
    /// credentials, or with some of these.
    pub fn is_open_to(
        &self,
        image: &ImageInfo,
        credentials: &[Credentials],
    ) -> Result<bool, Error> {
        if image.builtin {
            return Ok(true);
        }
        let content = self.inner.index.read()?;
        let seals = content.find(&image.digest).and_then(|entry| entry.seals.as_ref());
        Ok(seals.is_none_or(|seals| access::opens(seals, credentials)))
    }

    /// The image of a name or digest, if it is complete here.
    pub fn resolve(&self, name: &str) -> Result<Option<ImageInfo>, Error> {
        let digest = crate::reference::parse_digest(name);
        let full = match &digest {
            Some(digest) => digest.clone(),
            None => {
                let reference: Reference = name.parse()?;
                if let Some(image) = self.builtin(&reference) {
                    return Ok(Some(image));
                }
                match &reference.digest {
                    // With both, the digest decides.
                    Some(digest) => format!("{}@{digest}", reference.name()),
                    None => reference.to_string(),
                }
            }
        };
        let content = self.inner.index.read()?;
        let by_name = content.find(&full);
        let found = by_name.or_else(|| {
            let digest = full.rsplit_once('@').map(|(_, digest)| digest)?;
            content.find(digest)
        });
        let complete = found.filter(|entry| {
            entry.image.layers.iter().all(|l| self.inner.layers.get(&l.diff_id).is_some())
        });
        Ok(complete.map(|entry| entry.image.clone()))
    }

    fn builtin(&self, reference: &Reference) -> Option<ImageInfo> {
        let name = reference.name();
        self.inner.config.builtin.iter().find_map(|builtin| {
            let own: Reference = builtin.reference.parse().ok()?;
            (own.name() == name).then(|| builtin_info(&own, &builtin.config))
        })
    }

    /// Mounts the image's root for one container.
    pub async fn mount(&self, image: &ImageInfo, dirs: &MountDirs) -> Result<Mounted, Error> {
        let (this, image, dirs) = (self.clone(), image.clone(), dirs.clone());
        blocking(move || {
            // Layers that no image has any more must not go before the mount is known.
            let _lease = Lease::take(&this.inner.config.root)?;
            let lower = this.lower(&image)?;
            mount::mount(&this.inner.config.root, &image, &lower, &dirs)?;
            this.touch(&image.digest)?;
            Ok(Mounted { rootfs: dirs.rootfs, image })
        })
        .await
    }

    /// The image's layers, lowest first, for a container that mounts them itself in a
    /// namespace of its own. They stay until `unmount` is called for the same directory.
    pub async fn lend(&self, image: &ImageInfo, dirs: &MountDirs) -> Result<Vec<PathBuf>, Error> {
        let (this, image, dirs) = (self.clone(), image.clone(), dirs.clone());
        blocking(move || {
            let _lease = Lease::take(&this.inner.config.root)?;
            let lower = this.lower(&image)?;
            mount::prepare(&this.inner.config.root, &image, &lower, &dirs, true)?;
            this.touch(&image.digest)?;
            Ok(lower)
        })
        .await
    }

    fn lower(&self, image: &ImageInfo) -> Result<Vec<PathBuf>, Error> {
        if image.builtin {
            let found = self.inner.config.builtin.iter().find(|builtin| {
                builtin
                    .reference
                    .parse::<Reference>()
                    .is_ok_and(|own| builtin_info(&own, &builtin.config).digest == image.digest)
            });
            return match found {
                Some(builtin) => Ok(vec![builtin.rootfs.clone()]),
                None => Err(Error::NotPresent { image: image.digest.clone() }),
            };
        }
        let mut lower = Vec::new();
        for layer in &image.layers {
            if self.inner.layers.get(&layer.diff_id).is_none() {
                let name = image.tags.first().unwrap_or(&image.digest);
                return Err(Error::NotPresent { image: name.clone() });
            }
            let files = self.inner.layers.fs(&layer.diff_id);
            // Overlayfs heeds the mark on every directory but the root itself.
            if unpack::is_opaque(&files) {
                lower.clear();
            }
            lower.push(files);
        }
        Ok(lower)
    }

    fn touch(&self, digest: &str) -> Result<(), Error> {
        let now = index::now();
        let grain = i64::try_from(LAST_USED_GRAIN.as_secs()).unwrap_or(60);
        let fresh = |at: i64| now - at < grain;
        let content = self.inner.index.read()?;
        let Some(entry) = content.images.iter().find(|e| e.image.digest == digest) else {
            return Ok(());
        };
        if fresh(entry.last_used_at) {
            return Ok(());
        }
        self.inner.index.change(|content| {
            for entry in content.images.iter_mut().filter(|e| e.image.digest == digest) {
                entry.last_used_at = now;
            }
        })
    }

    /// Takes a root file system down; nothing happens when it is not mounted.
    pub async fn unmount(&self, rootfs: &Path) -> Result<(), Error> {
        let (root, rootfs) = (self.inner.config.root.clone(), rootfs.to_owned());
        blocking(move || mount::unmount(&root, &rootfs)).await
    }

    /// All images, the built-in ones included.
    pub fn list(&self) -> Result<Vec<ImageInfo>, Error> {
        let builtin = self.inner.config.builtin.iter().filter_map(|builtin| {
            let own: Reference = builtin.reference.parse().ok()?;
            Some(builtin_info(&own, &builtin.config))
        });
        let content = self.inner.index.read()?;
        Ok(builtin.chain(content.images.into_iter().map(|entry| entry.image)).collect())
    }

    /// Removes a name, and with its last name the image. By digest all names go.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let Some(image) = self.resolve(name)? else {
            return Err(Error::NotPresent { image: name.to_owned() });
        };
        if image.builtin {
            return Err(Error::Builtin { image: name.to_owned() });
        }
        let tag = match crate::reference::parse_digest(name) {
            Some(_) => None,
            None => {
                let reference: Reference = name.parse()?;
                reference.digest.is_none().then(|| reference.to_string())
            }
        };
        let this = self.clone();
        blocking(move || {
            this.inner.index.change(|content| {
                let named = content.images.iter_mut().find(|e| e.image.digest == image.digest);
                let gone = match (named, &tag) {
                    (Some(entry), Some(tag)) => {
                        entry.image.tags.retain(|own| own != tag);
                        entry.image.tags.is_empty()
                    }
                    _ => true,
                };
                if gone {
                    content.images.retain(|e| e.image.digest != image.digest);
                }
            })?;
            let inner = &this.inner;
            gc::sweep(&inner.config.root, &inner.index, &inner.layers).map(|_report| ())
        })
        .await
    }

    /// Collects unused images when the disk is full.
    pub async fn gc(&self, policy: &GcPolicy) -> Result<GcReport, Error> {
        let (this, policy) = (self.clone(), policy.clone());
        blocking(move || {
            let inner = &this.inner;
            gc::collect(&inner.config.root, &inner.index, &inner.layers, &policy)
        })
        .await
    }
}

/// What is in images is not for the host's users: neither private files nor programs that
/// run as root.
fn protect(root: &Path) -> Result<(), Error> {
    let fail = |e| Error::io("protecting", root, e);
    let mut permissions = fs::metadata(root).map_err(fail)?.permissions();
    if permissions.mode() & 0o777 == 0o700 {
        return Ok(());
    }
    permissions.set_mode(0o700);
    fs::set_permissions(root, permissions).map_err(fail)
}

fn present(image: ImageInfo, started: Instant) -> Outcome {
    Outcome { image, pulled: false, fetched_bytes: 0, elapsed: started.elapsed() }
}

fn builtin_info(reference: &Reference, config: &ImageConfig) -> ImageInfo {
    let name = reference.to_string();
    let digest = crate::digest::of(name.as_bytes());
    ImageInfo {
        config_digest: digest.clone(),
        repo_digests: vec![format!("{}@{digest}", reference.name())],
        digest,
        tags: vec![name],
        config: config.clone(),
        layers: Vec::new(),
        size_bytes: 0,
        builtin: true,
    }
}

/// Unfinished layers of a process that is gone. While another one pulls, nothing is
/// touched.
fn clear_tmp(root: &Path) -> Result<(), Error> {
    let path = root.join("tmp");
    gc::alone(root, || {
        fs::remove_dir_all(&path)
            .and_then(|()| fs::create_dir_all(&path))
            .map_err(|source| Error::Io { what: "clearing", path: path.clone(), source })
    })
}
