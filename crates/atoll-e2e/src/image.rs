//! Images made from Debian's static busybox, as `docker save` would write them.

use crate::cluster::{Cluster, run};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{path::Path, process::Command};

const BUSYBOX: &str = "/bin/busybox";

/// Puts an image with a shell on every node. `config` is the image's own: `Cmd`, `User` …
pub fn import_busybox(cluster: &Cluster, name: &str, config: Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.tar");
    std::fs::write(&path, archive(name, config)).unwrap();
    let dir = cluster.dir.display().to_string();
    cluster.atoll(&["image", "import", "--data-dir", &dir, path.to_str().unwrap()]).ok();
}

pub fn archive(name: &str, mut config: Value) -> Vec<u8> {
    let layer = layer();
    let digest = hex(&layer);
    config["Env"] = json!(["PATH=/bin"]);
    let config = json!({"architecture": "amd64", "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}, "history": []});
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", hex(&config));
    let layer_name = format!("{digest}/layer.tar");
    let manifest =
        json!([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        (layer_name.as_str(), layer.as_slice()),
        (&config_name, &config),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = header(0o644, tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

/// busybox with a link for each of its applets, and a user that is not root.
fn layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    for (name, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        let mut header = header(mode, tar::EntryType::Directory);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let busybox = std::fs::read(BUSYBOX).unwrap();
    for (name, mode, bytes) in [
        ("bin/busybox", 0o755, busybox.as_slice()),
        ("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/sh\n"),
        ("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n"),
    ] {
        let mut header = header(mode, tar::EntryType::Regular);
        header.set_size(bytes.len() as u64);
        layer.append_data(&mut header, name, bytes).unwrap();
    }
    let mut list = Command::new(BUSYBOX);
    list.arg("--list");
    for applet in run(list, "").ok().lines().filter(|applet| *applet != "busybox") {
        let mut header = header(0o777, tar::EntryType::Symlink);
        layer.append_link(&mut header, Path::new("bin").join(applet), "busybox").unwrap();
    }
    layer.into_inner().unwrap()
}

fn header(mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
