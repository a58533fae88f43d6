//! `atoll delete`: by name, by label or by file; waits until the objects are gone.

use super::{
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
use std::{path::PathBuf, time::Duration};

#[derive(Debug, clap::Args)]
pub struct Delete {
    /// KIND NAME... or KIND/NAME...
    pub targets: Vec<String>,
    /// Delete what these files or folders hold; - is standard input
    #[arg(short, long)]
    pub filename: Vec<PathBuf>,
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
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Return before the objects are gone
    #[arg(long)]
    pub no_wait: bool,
    /// Wait no longer than this many seconds
    #[arg(long, default_value_t = 300)]
    pub timeout: u64,
}

struct Doomed {
    api: Api<DynamicObject>,
    what: String,
    name: String,
}

pub async fn run(connection: &Connection, namespace: Option<&str>, delete: &Delete) -> Result<()> {
    let catalog = Catalog::read(&connection.client).await?;
    let namespace = namespace.unwrap_or(&connection.namespace);
    let doomed = if delete.filename.is_empty() {
        named(connection, namespace, &catalog, delete).await?
    } else {
        from_files(connection, namespace, &catalog, delete)?
    };
    let mut params = DeleteParams::background();
    params.grace_period_seconds = if delete.force { Some(0) } else { delete.grace_period };
    let mut going = Vec::new();
    for one in doomed {
        match one.api.delete(&one.name, &params).await {
            Ok(answer) => {
                output::line(&format!("{} \"{}\" deleted", one.what, one.name));
                let uid = answer
                    .either(|object| object.uid(), |status| status.details.map(|one| one.uid));
                going.push((one, uid.unwrap_or_default()));
            }
            Err(kube::Error::Api(status)) if status.code == 404 && delete.ignore_not_found => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !delete.no_wait {
        wait(going, Duration::from_secs(delete.timeout)).await?;
    }
    Ok(())
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
        doomed.extend(names.into_iter().map(|name| doom(entry, &api, name)));
    }
    Ok(doomed)
}

fn doom(entry: &Entry, api: &Api<DynamicObject>, name: String) -> Doomed {
    Doomed { api: api.clone(), what: entry.qualified(), name }
}

fn from_files(
    connection: &Connection,
    namespace: &str,
    catalog: &Catalog,
    delete: &Delete,
) -> Result<Vec<Doomed>> {
    let Manifests(objects) = read_files(&delete.filename)?;
    let found = objects.iter().map(|manifest| {
        let entry = catalog.of_object(&manifest.api_version, &manifest.kind)?;
        let namespace = manifest.namespace.as_deref().unwrap_or(namespace);
        let api = entry.api(&connection.client, namespace);
        Ok(doom(entry, &api, manifest.name.clone()))
    });
    found.collect()
}

async fn wait(going: Vec<(Doomed, String)>, timeout: Duration) -> Result<()> {
    let all = futures::future::try_join_all(going.iter().map(|(one, uid)| async move {
        await_condition(one.api.clone(), &one.name, is_deleted(uid))
            .await
            .with_context(|| format!("waiting for {}/{} to go", one.what, one.name))
    }));
    match tokio::time::timeout(timeout, all).await {
        Ok(result) => result.map(|_| ()),
        Err(_elapsed) => bail!(
            "timed out after {} s waiting for the objects to go; their finalizers say what holds them",
            timeout.as_secs()
        ),
    }
}
