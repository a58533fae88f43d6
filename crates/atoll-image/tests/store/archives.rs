//! Import, mount, remove; and archives that must be refused.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use atoll_image::{
    Builtin, Config, Error, GcPolicy, ImageConfig, ImageStore, PullPolicy, PullRequest,
    resolve_user,
};
use serde_json::json;

use crate::fixture::{Fixture, gzip, is_root, layer, layout, sha256, two_layers, write_tar};

fn request(image: &str, policy: PullPolicy) -> PullRequest {
    PullRequest { image: image.into(), policy, credentials: Vec::new(), by_hand: false }
}

#[tokio::test]
async fn an_imported_image_resolves_and_mounts() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new().await;
    let layout = layout("example.com/app:1", &two_layers());
    let path = write_tar(&fixture.dir.path().join("app.tar"), &layout.files);
    let imported = fixture.import(&path).await.unwrap();
    assert_eq!(imported.images[0].tags, ["example.com/app:1"]);
    let mode = fs::metadata(fixture.dir.path().join("images")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "the host's users do not run an image's programs");
    let image = fixture.store.resolve("example.com/app:1").unwrap().unwrap();
    assert_eq!(image.digest, layout.manifest_digest);
    assert_eq!(image.config.entrypoint, ["/bin/app"]);
    assert_eq!(image.config.env[1], ("MODE".to_owned(), "test".to_owned()));
    assert_eq!(image.config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(fixture.store.resolve(&image.digest).unwrap().unwrap(), image);

    let dirs = fixture.dirs("c");
    let mounted = fixture.store.mount(&image, &dirs).await.unwrap();
    let root = mounted.rootfs;
    assert_eq!(fs::read_to_string(root.join("bin/app")).unwrap(), "v2");
    assert!(!root.join("etc/gone").exists());
    assert!(!root.join("old/a").exists() && root.join("old/b").exists());
    fs::write(root.join("bin/app"), "mine").unwrap();
    let user = resolve_user(&root, &image.config.user).unwrap();
    assert_eq!((user.uid, user.gid), (1000, 1000));
    // Twice is once.
    fixture.store.mount(&image, &dirs).await.unwrap();
    fixture.store.unmount(&root).await.unwrap();
    assert!(!root.join("bin").exists(), "it is unmounted");
    let fresh = fixture.store.mount(&image, &fixture.dirs("d")).await.unwrap();
    assert_eq!(fs::read_to_string(fresh.rootfs.join("bin/app")).unwrap(), "v2");
    fixture.store.unmount(&fresh.rootfs).await.unwrap();
}

#[tokio::test]
async fn what_docker_save_writes_is_read_too() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new().await;
    let plain = layer(&[("hello", "world")]);
    let config = json!({ "config": { "Cmd": ["/hello"] },
        "rootfs": { "type": "layers", "diff_ids": [sha256(&plain)] } });
    let manifest = json!([{ "Config": "cfg.json", "RepoTags": ["hello:1", "hello:latest"],
        "Layers": ["abc/layer.tar"] }]);
    let files: BTreeMap<String, Vec<u8>> = [
        ("cfg.json".to_owned(), config.to_string().into_bytes()),
        ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ("abc/layer.tar".to_owned(), plain),
    ]
    .into();
    let path = write_tar(&fixture.dir.path().join("hello.tar"), &files);
    // Compressed as a whole, as people send it.
    let packed = fixture.dir.path().join("hello.tar.gz");
    fs::write(&packed, gzip(&fs::read(&path).unwrap())).unwrap();
    let imported = fixture.import(&packed).await.unwrap();
    assert_eq!(
        imported.images[0].tags,
        ["docker.io/library/hello:1", "docker.io/library/hello:latest"]
    );
    let outcome =
        fixture.store.ensure(&request("hello", PullPolicy::IfNotPresent), None).await.unwrap();
    assert!(!outcome.pulled);
    fixture.store.remove("hello:1").await.unwrap();
    assert!(fixture.store.resolve("hello").unwrap().is_some());
    fixture.store.remove("hello").await.unwrap();
    assert!(fixture.store.list().unwrap().is_empty());
    let left = fs::read_dir(fixture.dir.path().join("images/layers")).unwrap().count();
    assert_eq!(left, 0, "layers go with their last image");
}

#[tokio::test]
async fn a_builtin_image_is_present_whatever_the_policy() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("atoll"), "program").unwrap();
    let fixture = Fixture::with(|config| {
        config.builtin.push(Builtin {
            reference: "atoll.local/hello:latest".into(),
            rootfs: root.path().to_owned(),
            config: ImageConfig {
                entrypoint: vec!["/atoll".into(), "hello".into()],
                ..ImageConfig::default()
            },
        });
    })
    .await;
    for policy in [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never] {
        for name in ["atoll.local/hello", "atoll.local/hello:v2"] {
            let outcome = fixture.store.ensure(&request(name, policy), None).await.unwrap();
            assert_eq!(outcome.image.config.entrypoint, ["/atoll", "hello"]);
            assert!(!outcome.pulled);
        }
    }
    let image = fixture.store.resolve("atoll.local/hello").unwrap().unwrap();
    let mounted = fixture.store.mount(&image, &fixture.dirs("h")).await.unwrap();
    fs::write(mounted.rootfs.join("atoll"), "overwritten").unwrap();
    assert_eq!(fs::read_to_string(root.path().join("atoll")).unwrap(), "program");
    fixture.store.unmount(&mounted.rootfs).await.unwrap();
    assert!(matches!(fixture.store.remove("atoll.local/hello").await, Err(Error::Builtin { .. })));
}

#[tokio::test]
async fn a_missing_image_with_policy_never_is_told_in_the_kubelets_words() {
    let fixture = Fixture::new().await;
    let error =
        fixture.store.ensure(&request("nope:1", PullPolicy::Never), None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Container image "nope:1" is not present with pull policy of Never"#
    );
    let error = fixture
        .store
        .ensure(&request("Bad//Name", PullPolicy::IfNotPresent), None)
        .await
        .unwrap_err();
    assert!(error.is_invalid_name(), "{error}");
}

#[tokio::test]
async fn bad_archives_are_refused_and_leave_nothing() {
    let fixture = Fixture::new().await;
    let good = layout("example.com/app:1", &two_layers());
    let dir = fixture.dir.path();

    let whole = write_tar(&dir.join("whole.tar"), &good.files);
    let bytes = fs::read(&whole).unwrap();
    let cut = dir.join("cut.tar");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(fixture.import(&cut).await, Err(Error::Archive { .. })));

    let text = dir.join("text.tar");
    fs::write(&text, "this is no archive at all").unwrap();
    assert!(matches!(fixture.import(&text).await, Err(Error::Archive { .. })));

    // The archive's bytes are another layer's.
    let (one, other) = (layer(&[("a", "1")]), layer(&[("a", "2")]));
    let lying = layout("example.com/lie:1", &[(gzip(&one), other)]);
    let path = write_tar(&dir.join("lie.tar"), &lying.files);
    let error = fixture.import(&path).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");

    let mut spoilt = good.files.clone();
    let manifest = format!("blobs/sha256/{}", &good.manifest_digest[7..]);
    spoilt.get_mut(&manifest).unwrap().push(b' ');
    let path = write_tar(&dir.join("spoilt.tar"), &spoilt);
    let error = fixture.import(&path).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");

    assert!(fixture.store.list().unwrap().is_empty());
    assert_eq!(fs::read_dir(dir.join("images/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_compressed_archive_and_a_name_of_ones_own_are_taken() {
    let fixture = Fixture::new().await;
    let layout = layout("v1", &two_layers());
    let path = write_tar(&fixture.dir.path().join("app.tar"), &layout.files);
    let packed = fixture.dir.path().join("app.tar.zst");
    let bytes = zstd::encode_all(fs::read(&path).unwrap().as_slice(), 1).unwrap();
    fs::write(&packed, &bytes).unwrap();
    let imported = fixture.import(&packed).await.unwrap();
    assert!(imported.images[0].tags.is_empty(), "a bare tag names nothing");
    let imported = fixture.import_as(&packed, Some("app:v1")).await.unwrap();
    assert_eq!(imported.images[0].tags, ["docker.io/library/app:v1"]);
    assert!(fixture.store.resolve("app:v1").unwrap().is_some());

    let cut = fixture.dir.path().join("cut.tar.zst");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let error = fixture.import(&cut).await.unwrap_err();
    assert!(matches!(&error, Error::Archive { .. }), "{error}");
    assert!(error.to_string().contains("damaged or cut"), "{error}");
}

#[tokio::test]
async fn an_image_for_other_machines_is_refused_with_both_named() {
    let fixture = Fixture::new().await;
    let mut image = layout("example.com/app:1", &two_layers());
    let index = image.files["index.json"].clone();
    let mut index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    index["manifests"][0]["platform"] = json!({ "os": "linux", "architecture": "s390x" });
    image.files.insert("index.json".into(), index.to_string().into_bytes());
    let path = write_tar(&fixture.dir.path().join("other.tar"), &image.files);
    let error = fixture.import(&path).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("image {} has no variant for linux/amd64, only for linux/s390x", path.display())
    );
}

#[tokio::test]
async fn a_layer_that_hides_everything_below_it_does() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new().await;
    let lower = layer(&[("old", "1"), ("dir/", ""), ("dir/old", "1")]);
    let upper = layer(&[(".wh..wh..opq", ""), ("dir/", ""), ("dir/new", "2")]);
    let image = layout("example.com/app:1", &[(lower.clone(), lower), (upper.clone(), upper)]);
    let path = write_tar(&fixture.dir.path().join("app.tar"), &image.files);
    let image = fixture.import(&path).await.unwrap().images.remove(0);
    let mounted = fixture.store.mount(&image, &fixture.dirs("c")).await.unwrap();
    let root = mounted.rootfs;
    let (old, new) = (root.join("old").exists(), root.join("dir/new").exists());
    let below = root.join("dir/old").exists();
    fixture.store.unmount(&root).await.unwrap();
    assert_eq!((old, below, new), (false, false, true));
}

#[tokio::test]
async fn what_a_killed_import_left_is_cleared_but_not_what_a_running_one_needs() {
    let fixture = Fixture::new().await;
    let root = fixture.dir.path().join("images");
    let left = root.join("tmp/0123456789abcdef/fs");
    fs::create_dir_all(&left).unwrap();
    // As a pull of another process would: its lease is a shared lock on this file.
    let lock = fs::File::open(root.join("pulls.lock")).unwrap();
    lock.lock_shared().unwrap();
    ImageStore::open(Config::new(root.clone())).await.unwrap();
    assert!(left.exists());
    drop(lock);
    ImageStore::open(Config::new(root.clone())).await.unwrap();
    assert!(!left.exists());
}

#[tokio::test]
async fn hostile_layers_are_refused() {
    let fixture = Fixture::with(|config| {
        config.limits.layer_bytes_max = 1 << 20;
        config.limits.layer_entries_max = 50;
    })
    .await;
    let escape = {
        // The name is written by hand: the crate refuses it.
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..7].copy_from_slice(b"../evil");
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let zeroes = "0".repeat(2 << 20);
    let bomb = layer(&[("zeroes", &zeroes)]);
    let names: Vec<String> = (0..60).map(|n| format!("f{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "")).collect();
    let crowd = layer(&many);
    for (name, bytes) in [("escape", escape), ("bomb", bomb), ("crowd", crowd)] {
        let image = layout(&format!("example.com/{name}:1"), &[(gzip(&bytes), bytes)]);
        let path = write_tar(&fixture.dir.path().join(name), &image.files);
        let error = fixture.import(&path).await.unwrap_err();
        assert!(matches!(error, Error::HostileLayer { .. }), "{name}: {error}");
    }
    assert!(!fixture.dir.path().join("images/tmp/evil").exists());
}

#[tokio::test]
async fn collection_keeps_what_is_used_and_mounted() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new().await;
    let mut images = Vec::new();
    for name in ["used", "mounted", "idle"] {
        let plain = layer(&[("name", name)]);
        let image = layout(&format!("example.com/{name}:1"), &[(plain.clone(), plain)]);
        let path = write_tar(&fixture.dir.path().join(name), &image.files);
        images.push(fixture.import(&path).await.unwrap().images.remove(0));
    }
    let dirs = fixture.dirs("m");
    fixture.store.mount(&images[1], &dirs).await.unwrap();
    let policy = GcPolicy {
        high_percent: 0,
        low_percent: 0,
        min_unused: std::time::Duration::ZERO,
        in_use: vec![images[0].digest.clone()],
    };
    fixture.store.gc(&policy).await.unwrap();
    assert!(fixture.store.resolve("example.com/used:1").unwrap().is_some());
    assert!(fixture.store.resolve("example.com/idle:1").unwrap().is_none());
    assert_eq!(fs::read_to_string(dirs.rootfs.join("name")).unwrap(), "mounted");
    fixture.store.unmount(&dirs.rootfs).await.unwrap();
}
