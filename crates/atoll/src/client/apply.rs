//! `atoll apply`: makes the cluster hold what the files say, by server-side apply.

use super::{
    answer,
    catalog::{Catalog, Entry},
    connect::Connection,
    output,
};
use anyhow::{Context as _, Result, bail};
use kube::{
    ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::Value;
use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Who owns the fields that `atoll apply` sets.
const MANAGER: &str = "atoll";
/// A manifest file larger than this is a mistake.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub struct Apply {
    /// Files or folders of YAML or JSON; - is standard input
    #[arg(short, long, required = true)]
    pub filename: Vec<PathBuf>,
    /// Also what is in folders below those of --filename
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Take over fields that others own
    #[arg(long)]
    pub force_conflicts: bool,
    /// Ask the server what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// One object of a file.
pub struct Manifest {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub namespace: Option<String>,
    pub object: Value,
    /// The file it stands in.
    pub source: String,
}

pub struct Manifests(pub Vec<Manifest>);

pub async fn run(
    connection: &Connection,
    namespace: Option<&str>,
    apply: &Apply,
) -> Result<ExitCode> {
    let Manifests(manifests) = read_files(&apply.filename, apply.recursive)?;
    if manifests.is_empty() {
        bail!("no objects passed to apply");
    }
    let catalog = Catalog::read(&connection.client).await?;
    let mut code = ExitCode::SUCCESS;
    for manifest in &manifests {
        if let Err((error, doing)) =
            apply_one(connection, namespace, &catalog, manifest, apply).await
        {
            code = ExitCode::FAILURE;
            let doing = format!("error when {doing} \"{}\"", manifest.source);
            output::remark(&answer::refusal(&error, &doing));
        }
    }
    Ok(code)
}

/// An error says what was being done.
async fn apply_one(
    connection: &Connection,
    namespace: Option<&str>,
    catalog: &Catalog,
    manifest: &Manifest,
    apply: &Apply,
) -> Result<(), (anyhow::Error, &'static str)> {
    let entry = find(catalog, namespace, manifest).map_err(|error| (error, "reading"))?;
    let namespace = manifest.namespace.as_deref().or(namespace).unwrap_or(&connection.namespace);
    let api = entry.api(&connection.client, namespace);
    let before = api.get_metadata_opt(&manifest.name).await;
    let before = before.map_err(|error| (error.into(), "retrieving"))?;
    let mut params = PatchParams::apply(MANAGER);
    params.force = apply.force_conflicts;
    params.dry_run = apply.dry_run;
    params.field_validation = Some(kube::api::ValidationDirective::Strict);
    let patched = api.patch(&manifest.name, &params, &Patch::Apply(&manifest.object)).await;
    let doing = if before.is_some() { "patching" } else { "creating" };
    let after: DynamicObject = patched.map_err(|error| (error.into(), doing))?;
    let verb = match &before {
        None => "created",
        Some(before) if before.resource_version() == after.resource_version() => "unchanged",
        Some(_) => "configured",
    };
    let mode = if apply.dry_run { " (server dry run)" } else { "" };
    output::line(&format!("{} {verb}{mode}", entry.name_of(&manifest.name)));
    Ok(())
}

fn find<'a>(
    catalog: &'a Catalog,
    namespace: Option<&str>,
    manifest: &Manifest,
) -> Result<&'a Entry> {
    let entry = catalog.of_object(&manifest.api_version, &manifest.kind).with_context(|| {
        format!(
            "resource mapping not found for name: \"{}\" namespace: \"{}\" from \"{}\"",
            manifest.name,
            manifest.namespace.as_deref().unwrap_or_default(),
            manifest.source
        )
    })?;
    if let (Some(asked), Some(stated)) = (namespace, manifest.namespace.as_deref())
        && asked != stated
        && entry.namespaced
    {
        bail!(
            "the namespace from the provided object \"{stated}\" does not match the namespace \"{asked}\". You must pass '--namespace={stated}' to perform this operation."
        );
    }
    Ok(entry)
}

/// Reads all objects of files, folders (those below them if `recursive`) and standard input.
pub fn read_files(paths: &[PathBuf], recursive: bool) -> Result<Manifests> {
    let mut manifests = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = Vec::new();
            std::io::stdin()
                .take(FILE_BYTES_MAX)
                .read_to_end(&mut text)
                .context("reading standard input")?;
            parse("STDIN", &text, &mut manifests)?;
        } else if path.is_dir() {
            let mut files = Vec::new();
            collect(path, recursive, &mut files)?;
            if files.is_empty() {
                bail!(
                    "error reading [{}]: recognized file extensions are [.json .yaml .yml]",
                    path.display()
                );
            }
            for file in files {
                read_file(&file, &mut manifests)?;
            }
        } else {
            read_file(path, &mut manifests)?;
        }
    }
    Ok(Manifests(manifests))
}

/// By name, folders among the files, as kubectl goes through them. Links to folders are not
/// followed, so there is an end.
fn collect(folder: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let what = || format!("listing the folder {}", folder.display());
    let listed = std::fs::read_dir(folder).with_context(what)?;
    let mut entries = listed.collect::<std::io::Result<Vec<_>>>().with_context(what)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let known = path.extension().and_then(|one| one.to_str());
        if entry.file_type().with_context(what)?.is_dir() {
            if recursive {
                collect(&path, recursive, files)?;
            }
        } else if matches!(known, Some("yaml" | "yml" | "json")) {
            files.push(path);
        }
    }
    Ok(())
}

fn read_file(path: &Path, manifests: &mut Vec<Manifest>) -> Result<()> {
    let name = path.display().to_string();
    if !path.exists() {
        bail!("the path \"{name}\" does not exist");
    }
    let length = std::fs::metadata(path).with_context(|| format!("reading {name}"))?.len();
    if length > FILE_BYTES_MAX {
        bail!("{name} has {length} bytes; a manifest has at most {FILE_BYTES_MAX}");
    }
    let text = std::fs::read(path).with_context(|| format!("reading {name}"))?;
    parse(&name, &text, manifests)
}

fn parse(source: &str, text: &[u8], manifests: &mut Vec<Manifest>) -> Result<()> {
    let documents =
        atoll_api::tree::from_yaml_all(text).with_context(|| format!("error parsing {source}"))?;
    for document in documents {
        if let Some(duplicate) = document.decoded.duplicates.first() {
            bail!("error parsing {source}: duplicate field \"{duplicate}\"");
        }
        take(source, document.decoded.object, manifests)?;
    }
    Ok(())
}

fn take(source: &str, object: Value, manifests: &mut Vec<Manifest>) -> Result<()> {
    if object.is_null() {
        return Ok(());
    }
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let (Some(api_version), Some(kind)) = (text(&object["apiVersion"]), text(&object["kind"]))
    else {
        let missing = ["apiVersion", "kind"].into_iter().filter(|key| !object[*key].is_string());
        let missing: Vec<String> = missing.map(|key| format!("{key} not set")).collect();
        let missing = match missing.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        bail!("error validating \"{source}\": error validating data: {missing}");
    };
    if kind == "List" {
        for item in object["items"].as_array().into_iter().flatten() {
            take(source, item.clone(), manifests)?;
        }
        return Ok(());
    }
    let Some(name) = text(&object["metadata"]["name"]) else {
        bail!("{source}: a {kind} has no metadata.name; apply needs one");
    };
    let namespace = text(&object["metadata"]["namespace"]);
    let source = source.to_owned();
    manifests.push(Manifest { api_version, kind, name, namespace, object, source });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folders_below_are_read_when_asked_for_in_the_order_of_names() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("b/deep.yaml")).unwrap();
        for name in ["c.yml", "a.yaml", "b/x.json", "b/deep.yaml/y.yaml", "b/readme.md"] {
            let object =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
            std::fs::write(root.path().join(name), object.to_string()).unwrap();
        }
        let names = |recursive| -> Vec<String> {
            let Manifests(all) = read_files(&[root.path().to_owned()], recursive).unwrap();
            all.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(false), ["a.yaml", "c.yml"]);
        assert_eq!(names(true), ["a.yaml", "b/deep.yaml/y.yaml", "b/x.json", "c.yml"]);
        assert!(read_files(&[root.path().join("b")], false).is_ok());
        std::fs::remove_file(root.path().join("b/x.json")).unwrap();
        let error = read_files(&[root.path().join("b")], false).err().unwrap();
        assert!(error.to_string().contains("recognized file extensions"), "{error}");
    }
}
