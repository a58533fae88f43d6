//! Images built in the test from programs of the machine, and archives of them.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use atoll_e2e::cluster::run;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How a layer is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// An image's parts by digest.
pub(crate) struct Image {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// Digest of the manifest.
    pub(crate) digest: String,
    /// Digests of the layers as they are stored.
    pub(crate) layers: Vec<String>,
    media: &'static str,
}

/// A layer that is written entry by entry.
pub(crate) struct Layer(pub(crate) tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header
    }

    pub(crate) fn file(mut self, path: &str, mode: u32, bytes: &[u8]) -> Self {
        let mut header = Self::header(mode, bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).unwrap();
        self
    }

    pub(crate) fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = Self::header(0o777, 0);
        header.set_entry_type(tar::EntryType::Symlink);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    /// An entry whose names the crate would refuse, and whose size may be a lie.
    pub(crate) fn raw(mut self, path: &str, kind: tar::EntryType, target: &str, size: u64) -> Self {
        let mut header = Self::header(0o644, size);
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_device_major(8).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_cksum();
        self.0.append(&header, std::io::empty()).unwrap();
        self
    }

    pub(crate) fn program(self, from: &str, to: &str) -> Self {
        let bytes = std::fs::read(from).unwrap_or_else(|error| panic!("{from}: {error}"));
        self.file(to, 0o755, &bytes)
    }

    /// Debian's static busybox, and what of it these tests call.
    pub(crate) fn busybox(mut self) -> Self {
        self = self.program("/bin/busybox", "bin/busybox");
        for applet in ["sh", "sleep", "cat", "echo"] {
            self = self.symlink(&format!("bin/{applet}"), "busybox");
        }
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// What the image `node:18-alpine` of the wider world has, from Debian's nodejs.
pub(crate) fn node_layer() -> Vec<u8> {
    let entrypoint =
        "#!/bin/sh\nset -e\n[ \"${1#-}\" = \"$1\" ] || set -- node \"$@\"\nexec \"$@\"\n";
    let mut layer = Layer::new()
        .busybox()
        .file("usr/local/bin/docker-entrypoint.sh", 0o755, entrypoint.as_bytes())
        .program("/usr/bin/node", "usr/local/bin/node");
    let mut ldd = Command::new("ldd");
    ldd.arg("/usr/bin/node");
    for library in run(ldd, "").ok().split_whitespace().filter(|word| word.starts_with('/')) {
        layer = layer.program(library, library.trim_start_matches('/'));
    }
    layer.bytes()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn media(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => "application/vnd.oci.image.layer.v1.tar",
        Packing::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Packing::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}

impl Image {
    /// For this machine, with `config` as its run configuration.
    pub(crate) fn new(layers: &[Vec<u8>], packing: Packing, config: Value) -> Self {
        Self::for_machine("amd64", layers, packing, config)
    }

    pub(crate) fn for_machine(
        architecture: &str,
        layers: &[Vec<u8>],
        packing: Packing,
        config: Value,
    ) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| sha256(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let packed = layers.iter().map(|layer| match packing {
            Packing::Plain => layer.clone(),
            Packing::Gzip => gzip(layer),
            Packing::Zstd => zstd::encode_all(layer.as_slice(), 1).unwrap(),
        });
        let packed: Vec<Vec<u8>> = packed.collect();
        let mut image = Self {
            blobs: BTreeMap::new(),
            digest: String::new(),
            layers: Vec::new(),
            media: media(packing),
        };
        let config = image.put(config.to_string().into_bytes());
        let layers: Vec<(String, usize)> = packed.into_iter().map(|one| image.put(one)).collect();
        image.layers = layers.iter().map(|(digest, _)| digest.clone()).collect();
        let layers = layers.iter().map(|(digest, size)| {
            json!({
                "mediaType": image.media, "digest": digest, "size": size,
            })
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": config.0, "size": config.1,
            },
            "layers": layers.collect::<Vec<Value>>(),
        });
        image.digest = image.put(manifest.to_string().into_bytes()).0;
        image
    }

    fn put(&mut self, bytes: Vec<u8>) -> (String, usize) {
        let (digest, size) = (sha256(&bytes), bytes.len());
        self.blobs.insert(digest.clone(), bytes);
        (digest, size)
    }

    /// An OCI layout in a tar; without a name it has none.
    pub(crate) fn write_oci(&self, path: &Path, name: Option<&str>) -> PathBuf {
        let annotations = name.map(|name| json!({ "org.opencontainers.image.ref.name": name }));
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": self.digest, "size": self.blobs[&self.digest].len(),
            "annotations": annotations.unwrap_or(json!({})),
        }] });
        let mut archive = tar::Builder::new(File::create(path).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = Layer::header(0o644, bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        };
        add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        add("index.json", index.to_string().as_bytes());
        for (digest, bytes) in &self.blobs {
            add(&format!("blobs/sha256/{}", &digest[7..]), bytes);
        }
        archive.finish().unwrap();
        path.to_owned()
    }
}

/// busybox, with `sh` for its command.
pub(crate) fn busybox(packing: Packing) -> Image {
    Image::new(&[Layer::new().busybox().bytes()], packing, busybox_config())
}

pub(crate) fn busybox_config() -> Value {
    json!({ "Cmd": ["sh"], "Env": ["PATH=/bin"] })
}
