//! Entry points for the fuzzer: what reads images and the answers of registries.

use std::path::Path;

use crate::config::{ImportRequest, Limits, Progress};
use crate::layer::Layers;
use crate::manifest::{self, Parsed};
use crate::unpack::{Bounds, unpack};

/// Small, so that an input that gets around them shows.
pub const BYTES_MAX: u64 = 4 << 20;
const ENTRIES_MAX: u64 = 1000;

/// A layer's archive, unpacked into an empty folder.
pub fn layer(mut archive: &[u8], root: &Path) {
    let bounds = Bounds { bytes_max: BYTES_MAX, entries_max: ENTRIES_MAX };
    drop(unpack(&mut archive, root, bounds));
}

/// A compressed layer, through digest and limits, below an empty folder.
pub fn compressed_layer(archive: &[u8], root: &Path) {
    let layers = Layers::new(root, limits());
    drop(layers.unpack("fuzz", &format!("sha256:{:064}", 0), archive));
}

/// An archive of images, imported below an empty folder.
pub fn archive(file: &Path, root: &Path) {
    let layers = Layers::new(root, limits());
    let Ok(opened) = std::fs::File::open(file) else { return };
    let request = ImportRequest { file: opened, label: file.to_owned(), name: None };
    let progress = tokio::sync::watch::Sender::new(Progress::default());
    drop(crate::archive::import(&layers, limits(), root, request, &progress));
}

fn limits() -> Limits {
    Limits { layer_bytes_max: BYTES_MAX, layer_entries_max: ENTRIES_MAX, ..Limits::default() }
}

/// A manifest or an index, and an image's configuration.
pub fn manifest(bytes: &[u8]) {
    if let Ok(Parsed::Index(entries)) = manifest::parse("fuzz", bytes) {
        drop(manifest::select("fuzz", entries));
    }
    drop(manifest::parse_config("fuzz", bytes));
}

/// The header and body of a registry's refusal.
pub fn refusal(bytes: &[u8]) {
    crate::registry::fuzz_refusal(bytes);
}
