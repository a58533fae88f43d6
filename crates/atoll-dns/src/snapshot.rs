//! The snapshot: all that cluster DNS knows, as one versioned JSON file.
//!
//! The agent writes it (as a temporary file, then renamed); this process serves it, and
//! goes on serving it while agent and servers are away.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The format this version writes and the newest it reads.
pub const SNAPSHOT_VERSION: u32 = 1;

/// Everything below the cluster's domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: u32,
    /// Resolvers for all other names; empty leaves those of the configuration.
    #[serde(default)]
    pub upstreams: Vec<SocketAddr>,
    /// Names of all namespaces: `1-2-3-4.<namespace>.pod` exists for these only.
    #[serde(default)]
    pub namespaces: Vec<String>,
    #[serde(default)]
    pub services: Vec<Service>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    /// Empty for a headless service: then its endpoints are its addresses.
    #[serde(default)]
    pub cluster_addresses: Vec<IpAddr>,
    /// The service is another name for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Only read for headless services.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Endpoints that are not ready are published too.
    #[serde(default)]
    pub publish_not_ready: bool,
}

/// One endpoint of a headless service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: IpAddr,
    /// Its label below the service's name; the dashed address when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(default)]
    pub ready: bool,
    /// Ports as the endpoint has them, for SRV records.
    #[serde(default)]
    pub ports: Vec<Port>,
}

/// A port; without a name it has no SRV record of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    #[serde(default)]
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The label in an SRV name, without its underscore.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A snapshot could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("reading the DNS snapshot {path}")]
    Read { path: String, source: std::io::Error },
    #[error("writing the DNS snapshot {path}")]
    Write { path: String, source: std::io::Error },
    #[error("the DNS snapshot {path} is not valid")]
    Decode { path: String, source: serde_json::Error },
    #[error("encoding a DNS snapshot for {path}")]
    Encode { path: String, source: serde_json::Error },
    #[error(
        "the DNS snapshot {path} has version {version}, this program reads {SNAPSHOT_VERSION}; \
         run the same version for agent and DNS"
    )]
    Version { path: String, version: u32 },
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            version: SNAPSHOT_VERSION,
            upstreams: Vec::new(),
            namespaces: Vec::new(),
            services: Vec::new(),
        }
    }
}

impl Snapshot {
    /// Reads a whole snapshot; the version is looked at before the rest.
    pub fn read(path: &Path) -> Result<Self, SnapshotError> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => Self::decode(&name, &bytes),
            Err(source) => Err(SnapshotError::Read { path: name, source }),
        }
    }

    /// `name` is where the bytes are from, for errors.
    pub(crate) fn decode(name: &str, bytes: &[u8]) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let invalid = |source| SnapshotError::Decode { path: name.to_owned(), source };
        let Version { version } = serde_json::from_slice(bytes).map_err(invalid)?;
        if version != SNAPSHOT_VERSION {
            return Err(SnapshotError::Version { path: name.to_owned(), version });
        }
        serde_json::from_slice(bytes).map_err(invalid)
    }

    /// Writes beside the file, then renames: a reader sees the old or the new, whole.
    pub fn write(&self, path: &Path) -> Result<(), SnapshotError> {
        let name = path.display().to_string();
        let bytes = serde_json::to_vec(self)
            .map_err(|source| SnapshotError::Encode { path: name.clone(), source })?;
        let beside = path.with_extension("json.tmp");
        let write = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&beside, &bytes)?;
            std::fs::rename(&beside, path)
        };
        write().map_err(|source| SnapshotError::Write { path: name, source })
    }
}
