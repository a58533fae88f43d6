//! Histories of real clusters under faults, for as long as one likes; totals are kept, so that
//! the next call adds to this one's.

use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// Runs the program `history` of atoll-e2e with these arguments, which it explains when they are
/// wrong.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let status = Command::new("cargo")
        .args(["run", "--quiet", "--package", "atoll-e2e", "--bin", "history", "--"])
        .args(arguments)
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "the histories are not those of a correct store: {status}");
    Ok(())
}
