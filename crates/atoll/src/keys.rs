//! A server's keys on disk: made at the first start, read at every other.
//!
//! Each authority is a pair of PEM files; keys have mode 0600 and their folder 0700.

use crate::dev::folder::write_atomically;
use anyhow::{Context as _, Result, bail};
use atoll_identity::{AccountKey, Authority, AuthorityKind};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    fs::DirBuilder,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

pub struct Keys {
    folder: PathBuf,
    cluster: String,
}

impl Keys {
    /// The keys of `cluster` in `folder`, which is made if it is not there.
    pub fn open(folder: &Path, cluster: &str) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("making the key folder {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned(), cluster: cluster.to_owned() })
    }

    /// Where the certificate of an authority stands, once there is one.
    pub fn certificate_of(folder: &Path, kind: AuthorityKind) -> PathBuf {
        folder.join(format!("{}-ca.crt", kind.name()))
    }

    pub fn authority(&self, kind: AuthorityKind, now: Timestamp) -> Result<Authority> {
        let certificate = Self::certificate_of(&self.folder, kind);
        let key = self.folder.join(format!("{}-ca.key", kind.name()));
        match (certificate.exists(), key.exists()) {
            (true, true) => {
                let certificate = read(&certificate)?;
                let authority = Authority::load(kind, &certificate, &read_secret(&key)?)
                    .with_context(|| format!("taking up the {} authority", kind.name()))?;
                authority.check_clock(now)?;
                Ok(authority)
            }
            (false, false) => {
                let authority = Authority::create(kind, &self.cluster, now)
                    .with_context(|| format!("making the {} authority", kind.name()))?;
                write_atomically(&key, authority.key_pem().as_bytes(), 0o600)?;
                write_atomically(&certificate, authority.certificate_pem().as_bytes(), 0o644)?;
                Ok(authority)
            }
            // The key is written first: without its certificate it has signed nothing.
            (false, true) => {
                std::fs::remove_file(&key)
                    .with_context(|| format!("removing the unused {}", key.display()))?;
                let again = Self { folder: self.folder.clone(), cluster: self.cluster.clone() };
                again.authority(kind, now)
            }
            (true, false) => bail!(
                "the key {} is missing while its certificate is there; restore it from a backup",
                key.display()
            ),
        }
    }

    /// Everything that a joining server needs, file by file. Authorities that this cluster has not
    /// used yet are made, so that all servers have the same.
    pub fn bundle(&self, now: Timestamp) -> Result<BTreeMap<String, String>> {
        for kind in AuthorityKind::ALL {
            self.authority(kind, now)?;
        }
        self.account_key()?;
        let folder = self.folder.display();
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).with_context(|| format!("reading {folder}"))? {
            let path = entry.with_context(|| format!("reading {folder}"))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let text = match path.extension().and_then(|extension| extension.to_str()) {
                Some("key") => read_secret(&path)?,
                Some("crt") => read(&path)?,
                _ => continue,
            };
            files.insert(name.to_owned(), text);
        }
        Ok(files)
    }

    /// Whether a cluster is about to begin with these keys.
    pub fn is_fresh(&self) -> bool {
        !Self::certificate_of(&self.folder, AuthorityKind::Client).exists()
    }

    /// Where the keys stand that Secrets are sealed with in the store.
    pub fn secrets_file(folder: &Path) -> PathBuf {
        folder.join("secrets.key")
    }

    /// The key that signs ServiceAccount tokens.
    pub fn account_key(&self) -> Result<AccountKey> {
        let path = self.folder.join("service-account.key");
        if path.exists() {
            return AccountKey::load(&read_secret(&path)?)
                .with_context(|| format!("reading {}", path.display()));
        }
        let key = AccountKey::create().context("making the key of ServiceAccount tokens")?;
        write_atomically(&path, key.key_pem().as_bytes(), 0o600)?;
        Ok(key)
    }
}

pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Reads a key, which nobody but its owner may be able to do.
pub fn read_secret(path: &Path) -> Result<String> {
    let metadata =
        std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!(
            "the key {} can be read by others (mode {mode:o}); `chmod 600 {0}` mends that",
            path.display()
        );
    }
    read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joining_server_gets_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), "c").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        let bundle = keys.bundle(Timestamp::now()).unwrap();
        assert_eq!(bundle.len(), 2 * AuthorityKind::ALL.len() + 1, "{:?}", bundle.keys());
        let other = tempfile::tempdir().unwrap();
        for (name, text) in &bundle {
            write_atomically(&other.path().join(name), text.as_bytes(), 0o600).unwrap();
        }
        let other = Keys::open(other.path(), "c").unwrap();
        assert_eq!(other.bundle(Timestamp::now()).unwrap(), bundle);
    }

    #[test]
    fn keys_are_made_once_and_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(&folder.path().join("keys"), "c").unwrap();
        let now = Timestamp::now();
        let first = keys.authority(AuthorityKind::Client, now).unwrap().fingerprint();
        assert_eq!(keys.authority(AuthorityKind::Client, now).unwrap().fingerprint(), first);
        let path = folder.path().join("keys/client-ca.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        // The clock an hour back or ahead between two starts; a clock that was never set.
        for seconds in [-3_600, 3_600] {
            let off = Timestamp::from_second(now.as_second() + seconds).unwrap();
            assert_eq!(keys.authority(AuthorityKind::Client, off).unwrap().fingerprint(), first);
        }
        let never_set = Timestamp::from_second(100).unwrap();
        let refused = keys.authority(AuthorityKind::Client, never_set).err().unwrap();
        assert!(refused.to_string().contains("set the clock"), "{refused}");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = keys.authority(AuthorityKind::Client, now).err().unwrap();
        assert!(format!("{refused:#}").contains("chmod 600"));
    }
}
