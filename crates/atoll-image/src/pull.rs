//! Pulls an image: manifest, configuration, layers in parallel.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::{Config, Credentials, Limits, Progress, RegistryConfig};
use crate::digest::{Hasher, hex};
use crate::error::Error;
use crate::image::{ImageInfo, Layer};
use crate::layer::Layers;
use crate::manifest::{self, CONFIG_BYTES_MAX, Descriptor, Parsed};
use crate::reference::Reference;
use crate::registry::{self, Client, NetThread, Transport};

/// Times that one blob is asked for; each goes on where the last one ended.
const TRIES_MAX: u32 = 3;

/// What a pull brought.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) image: ImageInfo,
    pub(crate) fetched_bytes: u64,
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
    ) -> Result<Pulled, Error> {
        let image = reference.to_string();
        let net = self.net(&image)?;
        let described = self.describe(&net, reference, credentials).await?;
        let (config, diff_ids) = manifest::parse_config(&image, &described.config)?;
        self.check(&image, &diff_ids, &described.blobs)?;
        let missing: Vec<(usize, &String)> = diff_ids
            .iter()
            .enumerate()
            .filter(|(_, diff_id)| self.layers.get(diff_id).is_none())
            .collect();
        progress.send_modify(|p| {
            p.layers = diff_ids.len();
            p.layers_unpacked = diff_ids.len() - missing.len();
            p.total_bytes = missing.iter().map(|(i, _)| described.blobs[*i].size).sum();
        });
        let mut tasks = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.limits.parallel_max.max(1)));
        for (index, diff_id) in missing {
            let job = Job {
                image: image.clone(),
                blob: described.blobs[index].clone(),
                diff_id: diff_id.clone(),
                path: self.blob_path(&described.blobs[index].digest),
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

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex(digest))
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
}

impl Job {
    /// The bytes that were fetched.
    async fn run(self) -> Result<u64, Error> {
        let mut fetched = 0;
        if !self.path.exists() {
            fetched = self.download().await?;
        }
        let (image, diff_id, layers, path) = (self.image, self.diff_id, self.layers, self.path);
        let unpacked = tokio::task::spawn_blocking(move || {
            let file = fs::File::open(&path).map_err(|source| Error::Io {
                what: "opening",
                path: path.clone(),
                source,
            })?;
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
        let mut fetched = 0;
        let mut tries = 0;
        loop {
            tries += 1;
            let fetch = Fetch {
                image: self.image.clone(),
                blob: self.blob.clone(),
                path: self.path.clone(),
                client: Arc::clone(&self.client),
                progress: self.progress.clone(),
            };
            match self.net.thread.run(fetch.run()).await {
                None => return Err(Error::Stopped),
                Some((bytes, result)) => {
                    fetched += bytes;
                    match result {
                        Ok(()) => return Ok(fetched),
                        Err(error) if error.is_transient() && tries < TRIES_MAX => {
                            tracing::debug!(image = %self.image, %error, tries, "trying again");
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
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
}

impl Fetch {
    async fn run(self) -> (u64, Result<(), Error>) {
        let mut fetched = 0;
        let result = self.fetch(&mut fetched).await;
        (fetched, result)
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Io { what, path, source }
    }

    async fn fetch(&self, fetched: &mut u64) -> Result<(), Error> {
        let partial = self.path.with_extension("partial");
        let (mut hasher, mut have) = hash_partial(&partial).map_err(self.io("reading"))?;
        let mut stream = self.client.blob(&self.blob.digest, have).await?;
        let mut file = fs::File::options()
            .append(true)
            .create(true)
            .open(&partial)
            .map_err(self.io("opening"))?;
        if have > 0 && !stream.resumed {
            file.set_len(0).map_err(self.io("truncating"))?;
            (hasher, have) = (Hasher::default(), 0);
        }
        loop {
            let chunk = match stream.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(failure) => {
                    tracing::debug!(image = %self.image, %failure, have, "blob broke off");
                    return Err(self.truncated(have));
                }
            };
            file.write_all(&chunk).map_err(self.io("writing"))?;
            hasher.update(&chunk);
            have += chunk.len() as u64;
            *fetched += chunk.len() as u64;
            self.progress.send_modify(|p| p.fetched_bytes += chunk.len() as u64);
            if self.blob.size > 0 && have > self.blob.size {
                break;
            }
        }
        if have < self.blob.size {
            return Err(self.truncated(have));
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

/// What an earlier try left, hashed.
fn hash_partial(path: &Path) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::default();
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((hasher, 0)),
        Err(error) => return Err(error),
    };
    let mut length = 0;
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher, length)),
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}
