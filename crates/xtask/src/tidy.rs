//! `cargo xtask tidy`: layering, file size, module headers, names, licences.
//!
//! Each check prints every violation it finds, so that one run is enough to fix a branch.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, process::Command};

/// Who may depend on whom. A crate may use its own row and the rows listed.
///
/// The rule worth defending is the `client` row: controllers, the scheduler and the
/// node agent see Kubernetes objects only through the API, so they also run on a
/// cluster that is not Atoll.
const LAYERS: &[(&str, &[&str])] = &[
    ("pure", &["pure"]),
    ("engine", &["pure", "engine"]),
    ("server", &["pure", "engine", "server"]),
    ("client", &["pure", "client"]),
    ("node", &["pure", "engine", "client"]),
    ("binary", &["pure", "engine", "server", "client", "node"]),
    ("tool", &["pure", "engine"]),
    ("fuzz", &["pure", "engine", "server", "client", "node"]),
];

/// Files longer than this are split, not excused.
const FILE_LINES_MAX: usize = 800;

/// Nobody reads it from top to bottom; `cargo xtask proto --check` looks after it.
const GENERATED: &str = "proto/generated";

const BANNED_MODULES: &[&str] = &["utils", "util", "common", "helpers", "misc", "types"];

pub(crate) fn run() -> Result<()> {
    let mut violations = check_layers(&workspace_packages()?)?;
    check_sources(Path::new("crates"), &mut violations)?;
    crate::licences::check(&mut violations)?;
    for violation in &violations {
        eprintln!("tidy: {violation}");
    }
    if !violations.is_empty() {
        bail!("{} violation(s)", violations.len());
    }
    Ok(())
}

fn workspace_packages() -> Result<Vec<Value>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .output()
        .context("running cargo metadata")?;
    let mut metadata: Value = serde_json::from_slice(&output.stdout)?;
    let Value::Array(packages) = metadata["packages"].take() else {
        bail!("cargo metadata has no packages");
    };
    Ok(packages)
}

fn check_layers(packages: &[Value]) -> Result<Vec<String>> {
    let mut layer_of: BTreeMap<&str, &str> = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("package name")?;
        let layer = package["metadata"]["atoll"]["layer"]
            .as_str()
            .with_context(|| format!("{name}: no package.metadata.atoll.layer"))?;
        layer_of.insert(name, layer);
    }

    let mut violations = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("package name")?;
        let layer = layer_of[name];
        let (_, allowed) = LAYERS
            .iter()
            .find(|(row, _)| *row == layer)
            .with_context(|| format!("{name}: unknown layer {layer}"))?;
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if dependency["kind"] == "dev" {
                continue;
            }
            let used = dependency["name"].as_str().context("dependency name")?;
            if let Some(used_layer) = layer_of.get(used)
                && !allowed.contains(used_layer)
            {
                violations
                    .push(format!("{name} ({layer}) must not depend on {used} ({used_layer})"));
            }
        }
    }
    Ok(violations)
}

fn check_sources(folder: &Path, violations: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.ends_with(GENERATED) {
            continue;
        }
        if path.is_dir() {
            check_sources(&path, violations)?;
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("");
        if BANNED_MODULES.contains(&stem) {
            violations.push(format!("{}: name says nothing; name what it does", path.display()));
        }
        if text.lines().count() > FILE_LINES_MAX {
            violations.push(format!("{}: over {FILE_LINES_MAX} lines", path.display()));
        }
        if !text.starts_with("//!") {
            violations.push(format!("{}: first line is not a //! header", path.display()));
        }
    }
    Ok(())
}
