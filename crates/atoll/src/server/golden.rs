//! What every release left beside its store is read: keys, `server.json`, and backups.

use super::remembered::Remembered;
use crate::{
    backup::{Restore, run_restore},
    keys::Keys,
};
use atoll_identity::AuthorityKind;
use atoll_store::{
    EmbeddedStore, Keyspace, StoreConfig,
    kv::{KeyRange, RangeRequest},
};
use clap::Parser as _;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

fn releases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    assert!(!found.is_empty());
    found
}

/// With the modes that the release gave them, which no repository keeps.
fn unpack(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            unpack(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), &place).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

#[test]
fn the_keys_of_every_release_are_taken_up_and_none_is_made_anew() {
    for release in releases() {
        let folder = tempfile::tempdir().unwrap();
        unpack(&release.join("keys"), folder.path());
        let before = fs::read_dir(folder.path()).unwrap().count();
        let keys = Keys::open(folder.path(), "c").unwrap();
        // When the cluster was young; authorities end some time.
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let bundle = keys.bundle(now).unwrap();
        assert_eq!(bundle.len(), before, "{}", release.display());
        for kind in AuthorityKind::ALL {
            let text = &bundle[&format!("{}-ca.crt", kind.name())];
            assert_eq!(keys.authority(kind, now).unwrap().certificate_pem(), *text);
        }
        keys.account_key().unwrap();
    }
}

#[test]
fn the_server_files_of_every_release_are_read() {
    for release in releases() {
        for (name, node) in [("first", "a"), ("joined", "b"), ("rejoined", "b")] {
            let folder = tempfile::tempdir().unwrap();
            let file = release.join(format!("server.{name}.json"));
            fs::copy(&file, folder.path().join("server.json")).unwrap();
            let remembered = Remembered::load(folder.path()).unwrap().unwrap();
            assert_eq!(remembered.name, format!("server-{node}"), "{}", file.display());
            assert!(remembered.has_peers && remembered.rejoin.is_none());
            let cluster = remembered.cluster.unwrap();
            assert!(cluster.members.len() >= 2);
            assert_eq!(remembered.joined.is_some(), name != "first");
            assert_eq!(remembered.rejoined.len(), usize::from(name == "rejoined"));
        }
    }
}

#[derive(clap::Parser)]
struct Command {
    #[command(flatten)]
    restore: Restore,
}

#[tokio::test]
async fn the_backups_of_every_release_are_restored() {
    for release in releases() {
        let folder = tempfile::tempdir().unwrap();
        unpack(&release, folder.path());
        let dir = folder.path().join("restored");
        let words = [
            "restore".into(),
            folder.path().join("backup.age").into_os_string(),
            "--yes".into(),
            "--passphrase-file".into(),
            folder.path().join("passphrase").into_os_string(),
            "--data-dir".into(),
            dir.clone().into_os_string(),
        ];
        run_restore(&Command::parse_from(words).restore).unwrap();
        for name in ["client-ca.key", "peer-ca.crt", "service-account.key"] {
            let restored = fs::read(dir.join("keys").join(name)).unwrap();
            assert_eq!(restored, fs::read(release.join("keys").join(name)).unwrap(), "{name}");
        }
        let config = StoreConfig { dir: dir.join("store"), ..StoreConfig::default() };
        let store = EmbeddedStore::open(config).await.unwrap();
        let kv = store.keyspace(Keyspace::Cluster);
        for resource in ["configmaps", "secrets"] {
            let key = format!("/registry/core/{resource}/default/golden");
            let found = kv.range(RangeRequest::new(KeyRange::single(key.clone()))).await.unwrap();
            assert_eq!(found.count, 1, "{key} of {}", release.display());
        }
        store.shutdown().await;
    }
}
