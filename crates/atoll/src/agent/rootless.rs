//! What an agent without root tells its node besides.

use super::Agent;
use anyhow::{Context as _, Result};
use atoll_image::{Builtin, ImageConfig};
use atoll_node::rootless::{NODE_IMAGE, Rootless};
use std::path::{Path, PathBuf};

/// What a server listens on when its URL does not say.
const API_PORT: u16 = 6443;

pub fn configure(agent: &Agent, root: &Path) -> Result<Rootless> {
    let url: http::Uri = agent.join.parse().context("reading --join")?;
    let host = url.host().context("the URL of --join has no host")?;
    Ok(Rootless {
        api: Some((host.to_owned(), url.port_u16().unwrap_or(API_PORT))),
        hidden: vec![hidden(root, agent.supervised)],
    })
}

/// The folder with the keys: under `atoll dev` that of the whole cluster.
fn hidden(root: &Path, is_supervised: bool) -> PathBuf {
    match root.parent() {
        Some(cluster) if is_supervised => cluster.to_owned(),
        _ => root.to_owned(),
    }
}

/// The image whose files are the node's own, for commands of the node.
pub fn node_image() -> Builtin {
    Builtin {
        reference: format!("{NODE_IMAGE}:latest"),
        rootfs: PathBuf::from("/"),
        config: ImageConfig { working_dir: "/".to_owned(), ..ImageConfig::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_whole_cluster_are_hidden() {
        let root = Path::new("/home/u/dev/node-1");
        assert_eq!(hidden(root, true), Path::new("/home/u/dev"));
        assert_eq!(hidden(root, false), root);
    }
}
