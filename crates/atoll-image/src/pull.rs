//! Pulls an image: manifest, configuration, layers in parallel.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::blob::{self, BlobLock};
use crate::config::{Config, Credentials, Limits, Progress, RegistryConfig};
use crate::digest::{Hasher, hex};
use crate::error::Error;
use crate::gc::Lease;
use crate::image::{ImageInfo, Layer};
use crate::layer::{Layers, OVERHEAD_BYTES};
use crate::manifest::{self, CONFIG_BYTES_MAX, Descriptor, Parsed};
use crate::reference::Reference;
use crate::registry::{self, Client, NetThread, Transport};

/// Times that one blob is asked for without a byte more of it; each goes on where the
/// last one ended.
const TRIES_MAX: u32 = 3;

/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// What a pull brought.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) image: ImageInfo,
    pub(crate) fetched_bytes: u64,
    /// The credentials that it took, if any.
    pub(crate) shown: Option<Credentials>,
}

#[derive(Debug)]
pub(crate) struct Puller {
    root: PathBuf,
    config: RegistryConfig,
    limits: Limits,
    layers: Layers,
    /// Started by the first pull.
    net: Mutex<Option<Arc<Net>>>,
}

#[derive(Debug)]
struct Net {
    thread: NetThread,
    transport: Arc<Transport>,
}

/// An image as its registry describes it.
struct Described {
    digest: String,
    repo_digests: Vec<String>,
    config: Vec<u8>,
    config_digest: String,
    blobs: Vec<Descriptor>,
    client: Arc<Client>,
}

impl Puller {
    pub(crate) fn new(config: &Config, layers: Layers) -> Puller {
        Puller {
            root: config.root.clone(),
            config: config.registry.clone(),
            limits: config.limits,
            layers,
            net: Mutex::new(None),
        }
    }

    fn net(&self, image: &str) -> Result<Arc<Net>, Error> {
        let mut slot = self.net.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(net) = slot.as_ref() {
            return Ok(Arc::clone(net));
        }
        let thread =
            NetThread::start(self.config.registry_netns.clone()).map_err(|source| Error::Io {
                what: "entering the registry's network namespace for",
                path: self.config.registry_netns.clone().unwrap_or_else(|| PathBuf::from(image)),
                source,
            })?;
        let net = Arc::new(Net { thread, transport: Arc::new(Transport::new(&self.config)) });
        *slot = Some(Arc::clone(&net));
        Ok(net)
    }

    pub(crate) async fn pull(
        &self,
        reference: &Reference,
        credentials: &[Credentials],
        progress: &watch::Sender<Progress>,
        lease: Arc<Lease>,
    ) -> Result<Pulled, Error> {
        let image = reference.to_string();
        let net = self.net(&image)?;
        let described = self.describe(&net, reference, credentials).await?;
        let (config, diff_ids) = manifest::parse_config(&image, &described.config)?;
        self.check(&image, &diff_ids, &described.blobs)?;
        // An image may have the same layer twice.
        let distinct: HashSet<&String> = diff_ids.iter().collect();
        let mut seen = HashSet::new();
        let missing: Vec<(usize, &String)> = diff_ids
            .iter()
            .enumerate()
            .filter(|(_, diff_id)| self.layers.get(diff_id).is_none() && seen.insert(*diff_id))
            .collect();
        progress.send_modify(|p| {
            p.layers = distinct.len();
            p.layers_unpacked = distinct.len() - missing.len();
            p.total_bytes = missing.iter().map(|(i, _)| described.blobs[*i].size).sum();
        });
        let mut tasks = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.limits.parallel_max.max(1)));
        for (index, diff_id) in missing {
            let job = Job {
                image: image.clone(),
                blob: described.blobs[index].clone(),
                diff_id: diff_id.clone(),
                path: blob::path(&self.root, &described.blobs[index].digest),
                lease: Arc::clone(&lease),
                layers: self.layers.clone(),
                client: Arc::clone(&described.client),
                net: Arc::clone(&net),
                progress: progress.clone(),
            };
            let slots = Arc::clone(&slots);
            tasks.spawn(async move {
                let Ok(_slot) = slots.acquire().await else { return Err(Error::Stopped) };
                job.run().await
            });
        }
        let mut fetched_bytes = 0;
        while let Some(joined) = tasks.join_next().await {
            fetched_bytes += joined.map_err(|_panic| Error::Stopped)??;
        }
        let layers = self.collect(&image, &diff_ids)?;
        let shown = described.client.shown().await;
        Ok(Pulled {
            image: ImageInfo {
                digest: described.digest,
                config_digest: described.config_digest,
                tags: reference.tag.iter().map(|_| tagged(reference)).collect(),
                repo_digests: described.repo_digests,
                config,
                size_bytes: layers.iter().map(|layer| layer.size_bytes).sum(),
                layers,
                builtin: false,
            },
            fetched_bytes,
            shown,
        })
    }

    fn check(&self, image: &str, diff_ids: &[String], blobs: &[Descriptor]) -> Result<(), Error> {
        let invalid = |reason: String| Error::Invalid {
            image: image.to_owned(),
            what: "its manifest".to_owned(),
            reason,
        };
        if diff_ids.len() != blobs.len() {
            return Err(invalid(format!("{} layers, but {} diffIDs", blobs.len(), diff_ids.len())));
        }
        if blobs.len() > self.limits.layers_max {
            return Err(invalid(format!(
                "{} layers are more than {}",
                blobs.len(),
                self.limits.layers_max
            )));
        }
        for layer in blobs {
            let short = hex(&layer.digest).get(..12).unwrap_or_default().to_owned();
            if layer.size == 0 {
                return Err(invalid(format!("it gives no size for layer {short}")));
            }
            if layer.size > self.limits.layer_bytes_max.saturating_add(OVERHEAD_BYTES) {
                return Err(Error::HostileLayer {
                    image: image.to_owned(),
                    layer: short,
                    reason: format!("{} bytes are more than a layer may have", layer.size),
                });
            }
        }
        Ok(())
    }

    fn collect(&self, image: &str, diff_ids: &[String]) -> Result<Vec<Layer>, Error> {
        diff_ids
            .iter()
            .map(|diff_id| {
                self.layers
                    .get(diff_id)
                    .ok_or_else(|| Error::NotPresent { image: image.to_owned() })
            })
            .collect()
    }

    /// Asks mirrors, then the registry itself; its answer counts when all fail.
    async fn describe(
        &self,
        net: &Arc<Net>,
        reference: &Reference,
        credentials: &[Credentials],
    ) -> Result<Described, Error> {
        let mut last = Error::NotPresent { image: reference.to_string() };
        let endpoints = registry::endpoints(reference, &self.config);
        let own = endpoints.len().saturating_sub(1);
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            // The secret is the registry's, not a mirror's.
            let secrets = if index == own { credentials } else { &[] };
            let client = Client::new(Arc::clone(&net.transport), endpoint, reference, secrets);
            let (client, wanted) = (Arc::new(client), reference.clone());
            let work = describe(Arc::clone(&client), wanted);
            match net.thread.run(work).await {
                Some(Ok(described)) => return Ok(described),
                Some(Err(error)) => {
                    if index < own {
                        tracing::warn!(image = %reference, %error, "mirror failed");
                    }
                    last = error;
                }
                None => return Err(Error::Stopped),
            }
        }
        Err(last)
    }
}

fn tagged(reference: &Reference) -> String {
    Reference { digest: None, ..reference.clone() }.to_string()
}

async fn describe(client: Arc<Client>, reference: Reference) -> Result<Described, Error> {
    let image = reference.to_string();
    let (first_digest, text) = client.manifest(reference.version()).await?;
    let mut repo_digests = vec![format!("{}@{first_digest}", reference.name())];
    let (digest, manifest) = match manifest::parse(&image, &text)? {
        Parsed::Manifest(manifest) => (first_digest, manifest),
        Parsed::Index(entries) => {
            let chosen = manifest::select(&image, entries)?;
            let (digest, text) = client.manifest(&chosen.digest).await?;
            repo_digests.push(format!("{}@{digest}", reference.name()));
            match manifest::parse(&image, &text)? {
                Parsed::Manifest(manifest) => (digest, manifest),
                Parsed::Index(_) => {
                    return Err(Error::Invalid {
                        image,
                        what: "its index".to_owned(),
                        reason: "it leads to another index".to_owned(),
                    });
                }
            }
        }
    };
    repo_digests.sort();
    let config = client.small_blob(&manifest.config.digest, CONFIG_BYTES_MAX).await?;
    Ok(Described {
        digest,
        repo_digests,
        config: config.to_vec(),
        config_digest: manifest.config.digest,
        blobs: manifest.layers,
        client,
    })
}

/// One layer's way from the registry into the store.
struct Job {
    image: String,
    blob: Descriptor,
    diff_id: String,
    path: PathBuf,
    layers: Layers,
    client: Arc<Client>,
    net: Arc<Net>,
    progress: watch::Sender<Progress>,
    /// Held until the layer is in its place, even when the pull is called off meanwhile.
    lease: Arc<Lease>,
}

impl Job {
    /// The bytes that were fetched.
    async fn run(self) -> Result<u64, Error> {
        let lock = BlobLock::take(&self.path).await?;
        if self.layers.get(&self.diff_id).is_some() {
            self.progress.send_modify(|p| {
                p.fetched_bytes += self.blob.size;
                p.layers_unpacked += 1;
            });
            return Ok(0);
        }
        let mut fetched = 0;
        if !self.path.exists() {
            fetched = self.download().await?;
        }
        let (image, diff_id, layers, path) = (self.image, self.diff_id, self.layers, self.path);
        let lease = self.lease;
        let unpacked = tokio::task::spawn_blocking(move || {
            let _held = (lock, lease);
            let file = fs::File::open(&path).map_err(|e| Error::io("opening", &path, e))?;
            let result = layers.unpack(&image, &diff_id, file);
            // The layer stays, its archive does not; a bad one must not be tried again.
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(%error, path = %path.display(), "removing a layer's archive");
            }
            result
        });
        unpacked.await.map_err(|_panic| Error::Stopped)??;
        self.progress.send_modify(|p| p.layers_unpacked += 1);
        Ok(fetched)
    }

    async fn download(&self) -> Result<u64, Error> {
        let (mut fetched, mut best, mut idle) = (0, 0, 0);
        loop {
            let fetch = Fetch {
                image: self.image.clone(),
                blob: self.blob.clone(),
                path: self.path.clone(),
                client: Arc::clone(&self.client),
                progress: self.progress.clone(),
                counted_bytes: best,
            };
            let Some(tried) = self.net.thread.run(fetch.run()).await else {
                return Err(Error::Stopped);
            };
            fetched += tried.fetched_bytes;
            let error = match tried.result {
                Ok(()) => return Ok(fetched),
                Err(error) => error,
            };
            idle = if tried.have_bytes > best { 0 } else { idle + 1 };
            best = best.max(tried.have_bytes);
            let hopeless = matches!(error, Error::NoSpace { .. }) || !error.is_transient();
            if hopeless || idle >= TRIES_MAX {
                return Err(error);
            }
            tracing::debug!(image = %self.image, %error, idle, "trying again");
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

/// One try to fetch a blob, on the registry thread. File writes block that thread alone.
struct Fetch {
    image: String,
    blob: Descriptor,
    path: PathBuf,
    client: Arc<Client>,
    progress: watch::Sender<Progress>,
    /// What earlier tries have shown as progress.
    counted_bytes: u64,
}

/// How a try went.
struct Tried {
    fetched_bytes: u64,
    /// What is there now.
    have_bytes: u64,
    result: Result<(), Error>,
}

impl Fetch {
    async fn run(mut self) -> Tried {
        let (mut fetched_bytes, mut have_bytes) = (0, 0);
        let result = self.fetch(&mut fetched_bytes, &mut have_bytes).await;
        if matches!(result, Err(Error::NoSpace { .. })) {
            // What fills the disk is not kept for a later try.
            if let Err(error) = fs::remove_file(self.partial()) {
                tracing::debug!(image = %self.image, %error, "removing a part of a layer");
            }
        }
        Tried { fetched_bytes, have_bytes, result }
    }

    fn partial(&self) -> PathBuf {
        self.path.with_extension("partial")
    }

    fn show(&mut self, have_bytes: u64) {
        let more = have_bytes.saturating_sub(self.counted_bytes);
        self.counted_bytes += more;
        self.progress.send_modify(|p| p.fetched_bytes += more);
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::io(what, &path, source)
    }

    async fn fetch(&mut self, fetched: &mut u64, have: &mut u64) -> Result<(), Error> {
        let partial = self.partial();
        let left = partial.clone();
        let hashed = tokio::task::spawn_blocking(move || blob::hash_partial(&left)).await;
        let (mut hasher, kept) =
            hashed.map_err(|_panic| Error::Stopped)?.map_err(self.io("reading"))?;
        *have = kept;
        let mut stream = self.client.blob(&self.blob.digest, *have).await?;
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(&partial)
            .map_err(self.io("opening"))?;
        if *have > 0 && !stream.resumed {
            file.set_len(0).map_err(self.io("truncating"))?;
            (hasher, *have) = (Hasher::default(), 0);
        }
        self.show(*have);
        loop {
            let chunk = match stream.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(failure) => {
                    tracing::debug!(image = %self.image, %failure, have, "blob broke off");
                    return Err(self.truncated(*have));
                }
            };
            file.write_all(&chunk).map_err(self.io("writing"))?;
            hasher.update(&chunk);
            *have += chunk.len() as u64;
            *fetched += chunk.len() as u64;
            self.show(*have);
            if *have > self.blob.size {
                break;
            }
        }
        if *have < self.blob.size {
            return Err(self.truncated(*have));
        }
        let actual = hasher.finish();
        if actual != self.blob.digest {
            fs::remove_file(&partial).map_err(self.io("removing"))?;
            return Err(Error::WrongDigest {
                image: self.image.clone(),
                what: "a layer".to_owned(),
                expected: self.blob.digest.clone(),
                actual,
            });
        }
        file.sync_all().map_err(self.io("syncing"))?;
        fs::rename(&partial, &self.path).map_err(self.io("renaming"))
    }

    fn truncated(&self, actual: u64) -> Error {
        Error::Truncated {
            image: self.image.clone(),
            what: format!("layer {}", hex(&self.blob.digest).get(..12).unwrap_or_default()),
            expected: self.blob.size,
            actual,
        }
    }
}
