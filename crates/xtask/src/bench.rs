//! Builds the release program and measures whole clusters of it.

use crate::usage;
use anyhow::{Context as _, Result, ensure};
use std::{env::consts::ARCH, path::Path, process::Command};

/// Runs the benchmark `cluster` of atoll-e2e with these arguments.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    check(arguments)?;
    let target = format!("{ARCH}-unknown-linux-gnu");
    cargo(&["build", "--release", "--package", "atoll", "--target", &target], None)?;
    let program = Path::new("target").join(&target).join("release/atoll").canonicalize()?;
    let bench = ["bench", "--package", "atoll-e2e", "--target", &target, "--bench", "cluster"];
    cargo(&[&bench[..], &["--"], arguments].concat(), Some(&program))
}

/// Building takes minutes; what is wrong is said before.
fn check(arguments: &[&str]) -> Result<()> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let is_right = match *argument {
            "--runs" => arguments.next().is_some_and(|count| count.parse::<usize>().is_ok()),
            name => !name.starts_with('-'),
        };
        ensure!(is_right, "{argument} is not right\n{}", usage::of("bench"));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_not_taken_for_names() {
        assert!(check(&["start", "idle", "--runs", "3"]).is_ok());
        for wrong in [&["--help"][..], &["--runs"], &["--runs", "many"], &["start", "-v"]] {
            let refused = check(wrong).unwrap_err().to_string();
            assert!(refused.contains("usage: cargo xtask bench"), "{refused}");
        }
    }
}
