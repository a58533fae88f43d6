//! `atoll delete`: by name, by label or by file; waits until the objects are gone.

use super::{
    answer,
    apply::{Manifests, read_files},
    catalog::{Catalog, Entry, targets},
    connect::Connection,
    output,
};
use anyhow::{Context as _, Result, bail};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams},
    runtime::wait::{await_condition, conditions::is_deleted},
};
use std::{path::PathBuf, process::ExitCode, time::Duration};

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// KIND NAME... or KIND/NAME...
    pub targets: Vec<String>,
    /// Delete what these files or folders hold; - is standard input
    #[arg(short, long)]
    pub filename: Vec<PathBuf>,
    /// Also what is in folders below those of --filename
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Delete the objects with these labels
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// Delete all objects of the kind in the namespace
    #[arg(long)]
    pub all: bool,
    /// Seconds that pods get to end; 0 with --force is at once
    #[arg(long)]
    pub grace_period: Option<u32>,
    /// Do not wait for the node's word that the containers are gone
    #[arg(long)]
    pub force: bool,
    /// Objects that are not there are no error
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub ignore_not_found: bool,
    /// Wait until the objects are gone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Let pods end within one second
    #[arg(long, conflicts_with = "grace_period")]
    pub now: bool,
    /// What becomes of what the objects own: background, foreground or orphan
    #[arg(long, default_value = "background", value_enum)]
    pub cascade: Cascade,
    /// Wait no longer than this, such as 30s; 0 is never
    #[arg(long, default_value = "0s", value_parser = super::duration)]
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Cascade {
    Background,
    Foreground,
    Orphan,
}

struct Doomed {
    api: Api<DynamicObject>,
    what: String,
    name: String,
    /// The file that names it, if one does.
    source: String,
}

pub async fn run(
    connection: &Connection,
    namespace: Option<&str>,
    delete: &Delete,
) -> Result<ExitCode> {
    if delete.force && delete.grace_period.is_none_or(|seconds| seconds == 0) {
        output::remark(
            "Warning: Immediate deletion does not wait for confirmation that the running resource has been terminated. The resource may continue to run on the cluster indefinitely.",
        );
    }
    let catalog = Catalog::read(&connection.client).await?;
    let namespace = namespace.unwrap_or(&connection.namespace);
    let doomed = if delete.filename.is_empty() {
        named(connection, namespace, &catalog, delete).await?
    } else {
        from_files(connection, namespace, &catalog, delete)?
    };
    if doomed.is_empty() {
        output::line("No resources found");
    }
    let params = params(delete);
    let (mut going, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for one in doomed {
        match one.api.delete(&one.name, &params).await {
            Ok(answer) => {
                let how = if delete.force { "force deleted" } else { "deleted" };
                output::line(&format!("{} \"{}\" {how}", one.what, one.name));
                let uid = answer
                    .either(|object| object.uid(), |status| status.details.map(|one| one.uid));
                going.push((one, uid.unwrap_or_default()));
            }
            Err(kube::Error::Api(status)) if status.code == 404 && delete.ignore_not_found => {}
            Err(error) => {
                code = ExitCode::FAILURE;
                let doing = match delete.filename.is_empty() {
                    true => String::new(),
                    false => format!("error when deleting \"{}\"", one.source),
                };
                output::remark(&answer::refusal(&error.into(), &doing));
            }
        }
    }
    if delete.wait {
        wait(going, delete.timeout).await?;
    }
    Ok(code)
}

fn params(delete: &Delete) -> DeleteParams {
    let mut params = match delete.cascade {
        Cascade::Background => DeleteParams::background(),
        Cascade::Foreground => DeleteParams::foreground(),
        Cascade::Orphan => DeleteParams::orphan(),
    };
    params.grace_period_seconds = match delete {
        Delete { now: true, .. } => Some(1),
        Delete { force: true, grace_period: None, .. } => Some(0),
        _ => delete.grace_period,
    };
    params
}

async fn named(
    connection: &Connection,
    namespace: &str,
    catalog: &Catalog,
    delete: &Delete,
) -> Result<Vec<Doomed>> {
    let mut doomed = Vec::new();
    for (word, name) in targets(&delete.targets)? {
        let entry = catalog.find(&word)?;
        let api = entry.api(&connection.client, namespace);
        let names = match name {
            Some(name) => vec![name],
            None if delete.all || delete.selector.is_some() => {
                let mut params = ListParams::default();
                params.label_selector.clone_from(&delete.selector);
                let listed = api.list_metadata(&params).await.context("listing what to delete")?;
                listed.items.iter().map(kube::ResourceExt::name_any).collect()
            }
            None => bail!("resource(s) were provided, but no name was specified"),
        };
        doomed.extend(names.into_iter().map(|name| doom(entry, &api, name, "")));
    }
    Ok(doomed)
}

fn doom(entry: &Entry, api: &Api<DynamicObject>, name: String, source: &str) -> Doomed {
    Doomed { api: api.clone(), what: entry.qualified(), name, source: source.to_owned() }
}

fn from_files(
    connection: &Connection,
    namespace: &str,
    catalog: &Catalog,
    delete: &Delete,
) -> Result<Vec<Doomed>> {
    let Manifests(objects) = read_files(&delete.filename, delete.recursive)?;
    let found = objects.iter().map(|manifest| {
        let entry = catalog.of_object(&manifest.api_version, &manifest.kind)?;
        let namespace = manifest.namespace.as_deref().unwrap_or(namespace);
        let api = entry.api(&connection.client, namespace);
        Ok(doom(entry, &api, manifest.name.clone(), &manifest.source))
    });
    found.collect()
}

async fn wait(going: Vec<(Doomed, String)>, timeout: Duration) -> Result<()> {
    let all = futures::future::try_join_all(going.iter().map(|(one, uid)| async move {
        await_condition(one.api.clone(), &one.name, is_deleted(uid))
            .await
            .with_context(|| format!("waiting for {}/{} to go", one.what, one.name))
    }));
    if timeout.is_zero() {
        return all.await.map(|_| ());
    }
    match tokio::time::timeout(timeout, all).await {
        Ok(result) => result.map(|_| ()),
        Err(_elapsed) => {
            let left = going.iter().map(|(one, _)| format!("{}/{}", one.what, one.name));
            bail!("timed out waiting for the condition on {}", left.collect::<Vec<_>>().join(", "))
        }
    }
}
