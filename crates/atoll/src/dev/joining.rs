//! What a node of a `dev` cluster joins with.

use super::folder::write_atomically;
use crate::token;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, api::DeleteParams};
use std::path::{Path, PathBuf};
use tracing::warn;

/// A token is good for this long: the agent that it is for is about to start.
const TOKEN_SECONDS: i64 = 600;

/// Writes a token into the node's folder, an empty one where it has joined before.
///
/// A node that the cluster knows and whose folder is not there, as after a restore on another
/// machine, is gone: nobody else has its name, and it joins as a new one.
pub async fn token_file(client: &Client, name: &str, folder: &Path) -> Result<PathBuf> {
    let token = if folder.join("agent/client.crt").exists() {
        String::new()
    } else {
        forget(client, name).await?;
        token::create(client, token::Usage::Agent, TOKEN_SECONDS).await?.token
    };
    let file = folder.join("join-token");
    write_atomically(&file, token.as_bytes(), 0o600)?;
    Ok(file)
}

async fn forget(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.delete(name, &DeleteParams::default()).await {
        Ok(_) => {
            warn!(
                "the folder of {name} is gone, and the node with it; it joins as a new one, and its \
                 local volumes are lost"
            );
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("deleting the former node {name}")),
    }
}
