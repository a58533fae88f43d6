//! Builds the release program and measures whole clusters of it.

use anyhow::{Context as _, Result, ensure};
use std::{env::consts::ARCH, path::Path, process::Command};

/// Runs the benchmark `cluster` of atoll-e2e with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    cargo(&["build", "--release", "--package", "atoll", "--target", &target], None)?;
    let program = Path::new("target").join(&target).join("release/atoll").canonicalize()?;
    let bench = ["bench", "--package", "atoll-e2e", "--target", &target, "--bench", "cluster"];
    cargo(&[&bench[..], &["--"], arguments].concat(), Some(&program))
}

fn cargo(arguments: &[&str], program: Option<&Path>) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(arguments);
    if let Some(program) = program {
        command.env("ATOLL_BINARY", program);
    }
    let status = command.status().context("starting cargo")?;
    ensure!(status.success(), "cargo {} failed: {status}", arguments.join(" "));
    Ok(())
}
