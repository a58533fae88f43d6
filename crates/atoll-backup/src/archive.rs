//! What is inside of a backup (version 1): eight bytes of magic, the version and the manifest's
//! length as little-endian u32, the manifest as JSON, and the store's snapshot up to the end.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 8] = b"ATBACKUP";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
/// Some key files and names; far more than there are.
const MANIFEST_BYTES_MAX: usize = 1 << 20;
const KEYS_MAX: usize = 64;
const NAME_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it was opened, but holds no backup of a cluster")]
    NotABackup,
    #[error(
        "the backup has version {found}; this release reads version {VERSION}: restore it with the release that wrote it"
    )]
    Version { found: u32 },
    #[error("the backup's description is too long")]
    TooLong,
    #[error("the backup's description cannot be read")]
    Manifest(#[source] serde_json::Error),
    #[error("the backup holds a key file named {name:?}, which is no name for one")]
    KeyName { name: String },
    #[error("the key file {name:?} of the backup cannot be read")]
    KeyContent { name: String },
    #[error("the backup ends within its description")]
    Cut,
}

/// What a backup is of. Everything that a person wants to know before restoring it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub cluster_id: String,
    /// RFC 3339.
    pub taken_at: String,
    /// The release that took it.
    pub release: String,
    /// The servers at that time, by name.
    pub servers: Vec<String>,
    pub cluster_revision: i64,
    pub applications_revision: i64,
    /// Authorities and other keys of the servers.
    pub keys: Vec<KeyFile>,
}

/// A file of the servers' key folder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    pub name: String,
    /// Whether only its owner may read it.
    pub secret: bool,
    /// Base64.
    content: String,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("KeyFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl KeyFile {
    pub fn new(name: String, secret: bool, content: &[u8]) -> Self {
        Self { name, secret, content: STANDARD.encode(content) }
    }

    pub fn content(&self) -> Result<Vec<u8>, Error> {
        STANDARD
            .decode(&self.content)
            .map_err(|_malformed| Error::KeyContent { name: self.name.clone() })
    }

    /// A name stays in its folder and is nothing hidden.
    fn check(&self) -> Result<(), Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let good = (1..=NAME_MAX).contains(&self.name.len())
            && !self.name.starts_with('.')
            && self.name.bytes().all(plain);
        if !good {
            return Err(Error::KeyName { name: self.name.clone() });
        }
        self.content().map(drop)
    }
}

impl Manifest {
    /// What stands before the snapshot.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let json = serde_json::to_vec(self).map_err(Error::Manifest)?;
        let length = u32::try_from(json.len()).map_err(|_large| Error::TooLong)?;
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&json);
        Ok(out)
    }

    fn check(&self) -> Result<(), Error> {
        if self.keys.len() > KEYS_MAX {
            return Err(Error::TooLong);
        }
        self.keys.iter().try_for_each(KeyFile::check)
    }
}

/// Takes a backup apart as it comes.
#[derive(Debug, Default)]
pub struct Reader {
    manifest: Option<Manifest>,
    partial: Vec<u8>,
}

impl Reader {
    pub fn new() -> Self {
        Self::default()
    }

    /// Once it has come.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// The bytes of the snapshot among these.
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        if self.manifest.is_some() {
            return Ok(bytes);
        }
        let before = self.partial.len();
        let head = HEAD_BYTES.saturating_sub(before).min(bytes.len());
        self.partial.extend_from_slice(&bytes[..head]);
        let Some(end) = self.end_of_manifest()? else { return Ok(&[]) };
        let rest = &bytes[head..];
        let used = (end - self.partial.len()).min(rest.len());
        self.partial.extend_from_slice(&rest[..used]);
        if self.partial.len() == end {
            let manifest: Manifest =
                serde_json::from_slice(&self.partial[HEAD_BYTES..]).map_err(Error::Manifest)?;
            manifest.check()?;
            self.manifest = Some(manifest);
            self.partial = Vec::new();
        }
        Ok(&rest[used..])
    }

    pub fn finish(self) -> Result<Manifest, Error> {
        self.manifest.ok_or(Error::Cut)
    }

    fn end_of_manifest(&self) -> Result<Option<usize>, Error> {
        let known = self.partial.len().min(MAGIC.len());
        if self.partial[..known] != MAGIC[..known] {
            return Err(Error::NotABackup);
        }
        let (Some(version), Some(length)) = (u32_at(&self.partial, 8), u32_at(&self.partial, 12))
        else {
            return Ok(None);
        };
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        let length = length as usize;
        if length > MANIFEST_BYTES_MAX {
            return Err(Error::TooLong);
        }
        Ok(Some(HEAD_BYTES + length))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)
        .and_then(|slice| slice.first_chunk())
        .map(|four| u32::from_le_bytes(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            cluster_id: "0123456789abcdef0123456789abcdef".into(),
            taken_at: "2026-11-25T12:00:00Z".into(),
            release: "0.1.0".into(),
            servers: vec!["server-1".into()],
            cluster_revision: 812,
            applications_revision: 1,
            keys: vec![KeyFile::new("client-ca.key".into(), true, b"secret")],
        }
    }

    fn read(bytes: &[u8], piece: usize) -> Result<(Manifest, Vec<u8>), Error> {
        let mut reader = Reader::new();
        let mut snapshot = Vec::new();
        for piece in bytes.chunks(piece) {
            snapshot.extend_from_slice(reader.push(piece)?);
        }
        Ok((reader.finish()?, snapshot))
    }

    #[test]
    fn a_backup_is_taken_apart_whatever_its_pieces() {
        let mut bytes = manifest().encode().unwrap();
        bytes.extend_from_slice(b"snapshot");
        for piece in 1..=bytes.len() {
            assert_eq!(read(&bytes, piece).unwrap(), (manifest(), b"snapshot".to_vec()));
        }
        for length in 0..bytes.len() - 8 {
            assert!(read(&bytes[..length], 7).is_err(), "{length}");
        }
    }

    #[test]
    fn other_bytes_other_versions_and_names_that_lead_elsewhere_are_refused() {
        assert!(matches!(read(b"something else entirely", 5), Err(Error::NotABackup)));
        let mut bytes = manifest().encode().unwrap();
        bytes[8] = 2;
        let refused = read(&bytes, 100).unwrap_err().to_string();
        assert!(
            refused.starts_with("the backup has version 2; this release reads version 1: restore")
        );
        for name in ["../x", "a/b", "", ".hidden", "é"] {
            let keys = vec![KeyFile::new(name.into(), false, b"")];
            assert!(matches!(Manifest { keys, ..manifest() }.encode(), Err(Error::KeyName { .. })));
        }
    }
}
