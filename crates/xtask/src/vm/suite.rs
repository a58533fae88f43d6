//! What runs in the machine: the tests of the node, by the runner that the host has.

use super::{
    Wish,
    machine::{Folder, Speed},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{fs, path::Path, process::Command};

const SCRIPT: &str = include_str!("suite.sh");

/// Containers, pods, mounts of images, the network, and a whole cluster.
const NODE_SUITE: &str = "(package(atoll-container) & kind(test)) | \
                          (package(atoll-network) & kind(test)) | \
                          (package(atoll-node) & kind(test)) | \
                          (package(atoll-image) & test(archives::)) | \
                          (package(atoll-e2e) & binary(cgroup_v2) - test(the_node_suite))";

/// These move tens of thousands of packets, make hundreds of namespaces or write megabytes of
/// logs, and nothing in them depends on cgroups: emulated they alone would take minutes.
const HEAVY: &str = "test(twenty_thousand_requests) | test(two_hundred_sandboxes) | \
                     test(a_thousand_services) | test(streams::) | test(processes::) | \
                     test(cycles::)";

/// Writes the script that the machine runs, and what it refers to.
pub(crate) fn write(wish: &Wish, speed: Speed, folder: &Folder) -> Result<()> {
    let repository = std::env::current_dir()?;
    let binaries = folder.path("binaries.json");
    fs::write(&binaries, serde_json::to_vec(&test_binaries(&wish.packages)?)?)?;
    let metadata = folder.path("metadata.json");
    fs::write(&metadata, output(cargo().args(["metadata", "--format-version=1"]))?)?;
    let built = repository.join("target").join(triple()).join("debug/atoll");
    let atoll = folder.path("atoll");
    let source = wish.atoll.as_ref().unwrap_or(&built);
    fs::copy(source, &atoll)
        .with_context(|| format!("copying {}: run `cargo build -p atoll`", source.display()))?;
    let filter = match (&wish.filter, speed) {
        (Some(filter), _) => filter.clone(),
        (None, Speed::Kvm) => NODE_SUITE.to_owned(),
        (None, Speed::Emulated) => format!("({NODE_SUITE}) - ({HEAVY})"),
    };
    let tests = format!(
        "export ATOLL_BINARY={}; cargo-nextest nextest run --profile vm --color never \
         --binaries-metadata {} --cargo-metadata {} --filterset {}",
        quoted(&atoll)?,
        quoted(&binaries)?,
        quoted(&metadata)?,
        quote(&filter),
    );
    let script = format!(
        "repository={}\nmodules={}\ntests={}\npath={}\n{SCRIPT}",
        quoted(&repository)?,
        quoted(folder.modules())?,
        quote(&tests),
        quote(&std::env::var_os("PATH").unwrap_or_default().to_string_lossy()),
    );
    fs::write(folder.path("suite"), script)?;
    Ok(())
}

/// Where cargo puts what it builds for this repository's target.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Builds the tests as `make test` does, so that its work is not done again, or those of
/// some packages only.
fn test_binaries(packages: &[String]) -> Result<Value> {
    let list = |which: &[&str]| -> Result<Value> {
        let mut command = cargo();
        command.args(["nextest", "list", "--list-type", "binaries-only"]);
        command.args(["--message-format", "json", "--target", &triple()]).args(which);
        serde_json::from_slice(&output(&mut command)?).context("reading the list of tests")
    };
    if packages.is_empty() {
        return list(&["--workspace"]);
    }
    let mut all: Option<Value> = None;
    for package in packages {
        let mut more = list(&["--package", package])?;
        match &mut all {
            None => all = Some(more),
            Some(all) => {
                let (Some(all), Some(more)) =
                    (all["rust-binaries"].as_object_mut(), more["rust-binaries"].as_object_mut())
                else {
                    bail!("the list of tests has no binaries");
                };
                all.append(more);
            }
        }
    }
    all.context("no package was named")
}

/// Cargo without what an outer run of it, or of the test runner, left in the environment.
fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = text.starts_with("NEXTEST") || text.starts_with("__NEXTEST");
        if inherited || text.starts_with("CARGO_PKG") || text.starts_with("CARGO_MANIFEST") {
            command.env_remove(&name);
        }
    }
    command
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(quote(text))
}

/// As one word of the shell.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_survives_the_shell() {
        let word = "it's \"$HOME\" `id` \\ *";
        let script = format!("printf %s {}", quote(word));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }
}
