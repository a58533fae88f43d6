//! Values that are sealed before they reach the store: Secrets, and what else is asked for.
//!
//! [`envelope`] seals one value under one key, bound to the place where it stands; [`ring`] holds
//! the keys, which are in a file beside those of the authorities and never in the store in clear;
//! [`sealed`] is the store as everything above sees it; [`rotation`] brings a new key to all
//! servers, has everything sealed anew and drops the old one; [`admin`] starts and shows that.

pub(crate) mod admin;
pub mod envelope;
pub mod ring;
pub(crate) mod rotation;
pub(crate) mod sealed;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use crate::storage::ROOT;
use envelope::SecretKey;
use ring::Ring;

/// Writes the key file; the text is secret.
pub type Save = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// What this server seals, and with what.
pub struct Encryption {
    /// The keys that this server knows.
    pub(crate) ring: Ring,
    /// Prefixes of store keys whose values are sealed when they are written.
    prefixes: Vec<String>,
    /// As they were asked for: `secrets`, `widgets.example.com`.
    pub(crate) resources: Vec<String>,
    /// Under which new keys travel through the store: all servers derive it from a key that they
    /// have from joining.
    pub(crate) exchange: SecretKey,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("resources", &self.resources).finish_non_exhaustive()
    }
}

/// Why there can be no encryption.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error("the key file of Secrets cannot be read: {why}; restore it from a backup")]
    KeyFile { why: String },
    #[error("{resource:?} is no resource such as secrets or widgets.example.com")]
    Resource { resource: String },
}

impl Encryption {
    /// `key_file` is the text of the key file, empty when there is none yet; `shared` is a secret
    /// that all servers of the cluster have.
    pub fn new(
        key_file: &str,
        save: Arc<Save>,
        shared: &[u8],
        resources: &[String],
    ) -> Result<Self, EncryptionError> {
        let ring = Ring::read(key_file, save).map_err(|why| EncryptionError::KeyFile { why })?;
        let prefixes = resources.iter().map(|one| prefix(one)).collect::<Result<_, _>>()?;
        Ok(Self {
            ring,
            prefixes,
            resources: resources.to_vec(),
            exchange: SecretKey::derived(shared, b"atoll: exchange of keys of secrets"),
        })
    }

    /// Whether the value at this store key is to be sealed.
    pub(crate) fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
    }

    pub(crate) fn prefixes(&self) -> &[String] {
        &self.prefixes
    }
}

/// Where the objects of a resource stand.
fn prefix(resource: &str) -> Result<String, EncryptionError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let (name, group) = resource.split_once('.').unwrap_or((resource, "core"));
    if name.is_empty() || group.is_empty() || !resource.chars().all(plain) {
        return Err(EncryptionError::Resource { resource: resource.to_owned() });
    }
    Ok(format!("{ROOT}{group}/{name}/"))
}

/// The text of a key file with one new key, for a cluster that has not written anything yet.
pub fn new_key_file() -> Result<String, String> {
    Ring::fresh()
}
