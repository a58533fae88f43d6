//! Finds the cluster a command is meant for.

use anyhow::{Context as _, Result, bail};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::path::{Path, PathBuf};

/// Where a kubeconfig may be, in the order in which it is looked for.
pub struct Sources {
    /// `--kubeconfig`
    pub flag: Option<PathBuf>,
    /// `$KUBECONFIG`
    pub environment: Option<String>,
    pub home: Option<PathBuf>,
    /// `--data-dir` of `atoll dev`
    pub data_dir: Option<PathBuf>,
}

impl Sources {
    fn candidates(&self) -> Vec<PathBuf> {
        let environment = self.environment.iter().flat_map(|paths| paths.split(':'));
        let environment = environment.filter(|path| !path.is_empty()).map(PathBuf::from);
        let data_dir = self.data_dir.iter().map(|dir| dir.join("kubeconfig"));
        let home = self.home.iter().flat_map(|home| {
            [home.join(".kube/config"), home.join(".local/share/atoll/dev/kubeconfig")]
        });
        let system = std::iter::once(PathBuf::from("/var/lib/atoll/kubeconfig"));
        data_dir.chain(environment).chain(home).chain(system).collect()
    }

    /// The file to use: the one that was named, else the first that exists.
    pub fn find(&self) -> Result<PathBuf> {
        if let Some(flag) = &self.flag {
            return Ok(flag.clone());
        }
        let candidates = self.candidates();
        if let Some(found) = candidates.iter().find(|path| path.exists()) {
            return Ok(found.clone());
        }
        let looked: Vec<String> =
            candidates.iter().map(|path| path.display().to_string()).collect();
        bail!(
            "no kubeconfig found (looked at {}); start a cluster with `atoll dev`, or name one with --kubeconfig",
            looked.join(", ")
        )
    }
}

/// A client, and the namespace that commands mean when they name none.
pub struct Connection {
    pub client: Client,
    pub namespace: String,
}

pub async fn connect(path: &Path, context: Option<&str>) -> Result<Connection> {
    let kubeconfig = Kubeconfig::read_from(path)
        .with_context(|| format!("reading the kubeconfig {}", path.display()))?;
    let options =
        KubeConfigOptions { context: context.map(ToOwned::to_owned), ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .with_context(|| format!("using the kubeconfig {}", path.display()))?;
    // Followed logs and watches may be silent for long.
    config.read_timeout = None;
    let namespace = config.default_namespace.clone();
    let url = config.cluster_url.clone();
    let client = Client::try_from(config).with_context(|| format!("connecting to {url}"))?;
    Ok(Connection { client, namespace })
}
