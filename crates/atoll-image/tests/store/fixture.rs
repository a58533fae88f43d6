//! Archives built in the test, and a store in a directory of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atoll_image::{Config, Error, ImageStore, ImportRequest, Imported, MountDirs};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ImageStore,
}

impl Fixture {
    pub(crate) async fn new() -> Fixture {
        Fixture::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("images"));
        change(&mut config);
        let store = ImageStore::open(config).await.unwrap();
        Fixture { dir, store }
    }

    pub(crate) async fn import(&self, path: &Path) -> Result<Imported, Error> {
        self.import_as(path, None).await
    }

    pub(crate) async fn import_as(
        &self,
        path: &Path,
        name: Option<&str>,
    ) -> Result<Imported, Error> {
        let request = ImportRequest {
            file: std::fs::File::open(path).unwrap(),
            label: path.to_owned(),
            name: name.map(ToOwned::to_owned),
        };
        self.store.import(request, None).await
    }

    pub(crate) fn dirs(&self, name: &str) -> MountDirs {
        let base = self.dir.path().join("containers").join(name);
        MountDirs {
            rootfs: base.join("rootfs"),
            upper: base.join("upper"),
            work: base.join("work"),
        }
    }
}

/// Whether tests that mount can run; on CI they must.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "CI must run these tests as root");
        println!("skipped: mounting needs root");
    }
    root
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// A layer's archive of files by path; a path that ends in `/` is a directory.
pub(crate) fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        let directory = path.ends_with('/');
        header.set_entry_type(if directory {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_size(text.len() as u64);
        header.set_uid(0);
        header.set_gid(0);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image's parts by the path in an OCI layout.
pub(crate) struct Layout {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) manifest_digest: String,
}

pub(crate) fn put(files: &mut BTreeMap<String, Vec<u8>>, bytes: Vec<u8>) -> Value {
    let digest = sha256(&bytes);
    let size = bytes.len();
    files.insert(format!("blobs/sha256/{}", &digest[7..]), bytes);
    json!({ "digest": digest, "size": size })
}

/// Layers as (archive as stored, archive uncompressed).
pub(crate) fn layout(name: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> Layout {
    let mut files = BTreeMap::new();
    let diff_ids: Vec<String> = layers.iter().map(|(_, plain)| sha256(plain)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {
            "Entrypoint": ["/bin/app"], "Cmd": ["serve"], "Env": ["PATH=/bin", "MODE=test"],
            "User": "app", "WorkingDir": "/srv", "StopSignal": "SIGINT",
            "ExposedPorts": { "8080/tcp": {} },
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let mut config = put(&mut files, config.to_string().into_bytes());
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let blobs: Vec<Value> = layers
        .iter()
        .map(|(stored, _)| {
            let mut blob = put(&mut files, stored.clone());
            blob["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip");
            blob
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": blobs,
    });
    let mut entry = put(&mut files, manifest.to_string().into_bytes());
    let manifest_digest = entry["digest"].as_str().unwrap().to_owned();
    entry["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    files.insert("index.json".into(), index.to_string().into_bytes());
    files.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    Layout { files, manifest_digest }
}

pub(crate) fn write_tar(path: &Path, files: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let mut builder = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
    path.to_owned()
}

/// Two layers, the upper of which deletes and replaces.
pub(crate) fn two_layers() -> Vec<(Vec<u8>, Vec<u8>)> {
    let lower = layer(&[
        ("bin/", ""),
        ("bin/app", "v1"),
        ("etc/", ""),
        ("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n"),
        ("etc/gone", "x"),
        ("old/", ""),
        ("old/a", "x"),
    ]);
    let upper = layer(&[
        ("bin/app", "v2"),
        ("etc/.wh.gone", ""),
        ("old/", ""),
        ("old/.wh..wh..opq", ""),
        ("old/b", "y"),
    ]);
    vec![(gzip(&lower), lower), (zstd::encode_all(&upper[..], 1).unwrap(), upper)]
}
