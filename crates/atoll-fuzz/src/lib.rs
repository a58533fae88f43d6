//! Whatever parses bytes from outside, as one table of functions of bytes.
//!
//! Two programs run the same table: `tests/mutations.rs` on every change, for a second a
//! target; and libFuzzer in the folder `fuzz/`, for as long as somebody likes. A target
//! returns quietly, whatever it is given; a panic, a hang or an allocation out of proportion
//! is a bug. Where a format is also written, a target checks that what was read comes back.

mod targets;

use std::path::{Path, PathBuf};

/// Something that parses bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of its folder below `corpus`.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Inputs that reach deep; files of the corpus come on top.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
#[must_use]
pub fn targets() -> Vec<Target> {
    targets::all()
}

/// The target's regressions and hand-written inputs.
#[must_use]
pub fn corpus_folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// Seeds and files, sorted, so that a run repeats.
///
/// # Errors
///
/// When a file of the corpus cannot be read.
pub fn corpus(target: &Target) -> std::io::Result<Vec<Vec<u8>>> {
    let mut inputs = (target.seeds)();
    let folder = corpus_folder(target);
    if !folder.is_dir() {
        return Ok(inputs);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        files.push(entry?.path());
    }
    files.sort();
    for file in files {
        inputs.push(std::fs::read(file)?);
    }
    Ok(inputs)
}
