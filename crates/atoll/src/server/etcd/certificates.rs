//! The certificate that the etcd API shows: the one that its file has now.

use anyhow::{Context as _, Result};
use atoll_etcd::server::tls_config;
use rustls::ServerConfig;
use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};
use tracing::{info, warn};

/// PEM.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients have to show a certificate of it.
    pub client_authority: Option<PathBuf>,
}

/// By which a file is told from what stood in its place: a file, its size and when it was written.
type Stamp = Option<(u64, u64, SystemTime)>;

/// Read once, and again when a file has changed.
pub struct Certificates {
    files: Files,
    known: Mutex<Known>,
}

struct Known {
    stamps: Vec<Stamp>,
    config: Arc<ServerConfig>,
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_authority)
    }

    fn stamps(&self) -> Vec<Stamp> {
        let stamp = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.ino(), found.len(), found.modified().ok()?))
        };
        self.all().map(stamp).collect()
    }

    fn config(&self) -> Result<Arc<ServerConfig>> {
        let authority = self.client_authority.as_deref().map(read).transpose()?;
        let config = tls_config(&read(&self.certificate)?, &read(&self.key)?, authority.as_deref());
        config.with_context(|| format!("serving the etcd API with {}", self.certificate.display()))
    }
}

impl Certificates {
    pub fn read(files: Files) -> Result<Self> {
        // Looked at first: what is written while they are read is read again.
        let stamps = files.stamps();
        let config = files.config()?;
        Ok(Self { files, known: Mutex::new(Known { stamps, config }) })
    }

    /// Files are replaced one after the other: what does not fit together yet is not shown.
    pub fn current(&self) -> Arc<ServerConfig> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        if stamps != known.stamps {
            let certificate = self.files.certificate.display();
            match self.files.config() {
                Ok(config) => {
                    info!(%certificate, "the etcd API shows what its files have now");
                    known.config = config;
                }
                Err(error) => warn!(
                    %certificate,
                    error = format!("{error:#}"),
                    "the etcd API goes on with what its files had"
                ),
            }
            known.stamps = stamps;
        }
        known.config.clone()
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}
