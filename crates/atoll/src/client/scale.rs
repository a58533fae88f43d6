//! `atoll scale`: another number of replicas.

use super::{catalog::Catalog, catalog::targets, connect::Connection, output};
use anyhow::{Context as _, Result, bail};
use kube::api::{Patch, PatchParams};
use serde_json::json;

#[derive(Debug, clap::Args)]
pub struct Scale {
    /// KIND NAME or KIND/NAME, such as deployment/web
    #[arg(required = true)]
    pub targets: Vec<String>,
    /// How many
    #[arg(long)]
    pub replicas: u32,
    /// Only if there are this many now
    #[arg(long)]
    pub current_replicas: Option<u32>,
}

pub async fn run(connection: &Connection, namespace: Option<&str>, scale: &Scale) -> Result<()> {
    let catalog = Catalog::read(&connection.client).await?;
    let namespace = namespace.unwrap_or(&connection.namespace);
    for (word, name) in targets(&scale.targets)? {
        let entry = catalog.find(&word)?;
        let Some(name) = name else {
            bail!("name the {} to scale: {word}/NAME", entry.singular);
        };
        let api = entry.api(&connection.client, namespace);
        if let Some(expected) = scale.current_replicas {
            let now = api.get_scale(&name).await?.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            if i64::from(now) != i64::from(expected) {
                bail!("Expected replicas to be {expected}, was {now}");
            }
        }
        let patch = json!({ "spec": { "replicas": scale.replicas } });
        let scaled = api.patch_scale(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Err(kube::Error::Api(status)) = &scaled
            && status.code == 404
        {
            bail!("no objects passed to scale {}", status.message);
        }
        scaled.with_context(|| format!("scaling {}", entry.name_of(&name)))?;
        output::line(&format!("{} scaled", entry.name_of(&name)));
    }
    Ok(())
}
