//! What this server seals before it stores it, and the file with the keys for that.

use crate::{
    dev::folder::write_atomically,
    keys::{Keys, read_secret},
};
use anyhow::{Context as _, Result, anyhow};
use atoll_apiserver::encryption::{Encryption, new_key_file};
use std::{path::Path, sync::Arc};

#[derive(Debug, Clone, clap::Args)]
pub struct Sealing {
    /// Resources that are sealed in the store, separated by commas, such as
    /// secrets,configmaps,widgets.example.com; `none` seals nothing that is written from now on.
    /// Give all servers the same
    #[arg(long, value_name = "RESOURCES", default_value = "secrets", value_delimiter = ',')]
    pub encrypt: Vec<String>,
}

/// A cluster that begins has its key before anything is written; one of a former release is given
/// one by the server that leads, when all servers can read what is sealed.
pub fn begin(keys: &Keys, folder: &Path) -> Result<()> {
    let path = Keys::secrets_file(folder);
    if !keys.is_fresh() || path.exists() {
        return Ok(());
    }
    let text = new_key_file().map_err(|why| anyhow!(why)).context("making the key of Secrets")?;
    write_atomically(&path, text.as_bytes(), 0o600)
}

pub fn encryption(sealing: &Sealing, folder: &Path) -> Result<Arc<Encryption>> {
    let path = Keys::secrets_file(folder);
    let text = if path.exists() { read_secret(&path)? } else { String::new() };
    // All servers have this one from the start, and nobody else has.
    let shared = read_secret(&folder.join("service-account.key"))?;
    let none = sealing.encrypt == ["none"];
    let resources = if none { &[][..] } else { &sealing.encrypt };
    let shown = path.display().to_string();
    let save = Arc::new(move |text: &str| {
        write_atomically(&path, text.as_bytes(), 0o600).map_err(|error| format!("{error:#}"))
    });
    let encryption = Encryption::new(&text, save, shared.as_bytes(), resources);
    encryption.map(Arc::new).with_context(|| format!("taking up {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_cluster_begins_with_a_key_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::open(folder.path(), "c").unwrap();
        begin(&keys, folder.path()).unwrap();
        let path = Keys::secrets_file(folder.path());
        let first = read_secret(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        begin(&keys, folder.path()).unwrap();
        assert_eq!(read_secret(&path).unwrap(), first, "it is made once");
        keys.account_key().unwrap();
        let sealing = |what: &str| Sealing { encrypt: vec![what.to_owned()] };
        encryption(&sealing("secrets"), folder.path()).unwrap();
        encryption(&sealing("none"), folder.path()).unwrap();
        let refused = encryption(&sealing("Secrets/x"), folder.path()).unwrap_err();
        assert!(format!("{refused:#}").contains("is no resource"), "{refused:#}");
        std::fs::write(&path, "garbage").unwrap();
        let refused = encryption(&sealing("secrets"), folder.path()).unwrap_err();
        assert!(format!("{refused:#}").contains("restore it from a backup"), "{refused:#}");
    }
}
