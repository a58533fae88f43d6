//! Keeps what this release writes, for all later ones to read: once for each release, when it is
//! made.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const FOLDER: &str = "crates/atoll-store/tests/golden";

/// `name` is the release's version; what is kept already is never written again.
pub(crate) fn run(name: &str) -> Result<()> {
    let folder = Path::new(FOLDER).join(name);
    ensure!(!folder.exists(), "{} is there; a release is written once", folder.display());
    let status = Command::new("cargo")
        .args(["run", "-q", "-p", "atoll-store", "--example", "golden", "--"])
        .arg(&folder)
        .status()
        .context("starting the store")?;
    ensure!(status.success(), "the store did not write {}", folder.display());
    Ok(())
}
