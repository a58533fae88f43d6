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
    /// Files that are merged, the first to say something winning. Those of `$KUBECONFIG` are
    /// meant even if they are missing: falling back would act on another cluster.
    fn environment(&self) -> Vec<PathBuf> {
        let paths = self.environment.iter().flat_map(|paths| paths.split(':'));
        paths.filter(|path| !path.is_empty()).map(PathBuf::from).collect()
    }

    fn fallbacks(&self) -> Vec<PathBuf> {
        let home = self.home.iter().flat_map(|home| {
            [home.join(".kube/config"), home.join(".local/share/atoll/dev/kubeconfig")]
        });
        let system = std::iter::once(PathBuf::from("/var/lib/atoll/kubeconfig"));
        home.chain(system).collect()
    }

    /// The files to use: the one that was named, those of the environment, or the first
    /// that exists.
    pub fn find(&self) -> Result<Vec<PathBuf>> {
        if let Some(flag) = &self.flag {
            return Ok(vec![flag.clone()]);
        }
        // What was typed wins over the environment: it would be about another cluster.
        if let Some(dir) = &self.data_dir {
            let file = dir.join("kubeconfig");
            if !file.exists() {
                bail!(
                    "there is no cluster in {}: {} does not exist; start one with `atoll dev --data-dir {0}`",
                    dir.display(),
                    file.display()
                );
            }
            return Ok(vec![file]);
        }
        let named = self.environment();
        let (looked, found) = if named.is_empty() {
            let looked = self.fallbacks();
            let found = looked.iter().find(|path| path.exists()).cloned();
            (looked, found.into_iter().collect::<Vec<_>>())
        } else {
            let found = named.iter().filter(|path| path.exists()).cloned().collect();
            (named, found)
        };
        if !found.is_empty() {
            return Ok(found);
        }
        let looked: Vec<String> = looked.iter().map(|path| path.display().to_string()).collect();
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
    connect_merged(&[path.to_owned()], context).await
}

/// As kubectl reads several kubeconfigs.
pub async fn connect_merged(paths: &[PathBuf], context: Option<&str>) -> Result<Connection> {
    let config = config_merged(paths, context).await?;
    let namespace = config.default_namespace.clone();
    let url = config.cluster_url.clone();
    let client = Client::try_from(config).with_context(|| format!("connecting to {url}"))?;
    Ok(Connection { client, namespace })
}

/// How the cluster of these kubeconfigs is reached.
pub async fn config_merged(paths: &[PathBuf], context: Option<&str>) -> Result<Config> {
    let mut merged = Kubeconfig::default();
    for path in paths {
        let read = Kubeconfig::read_from(path)
            .with_context(|| format!("reading the kubeconfig {}", path.display()))?;
        merged = merged
            .merge(read)
            .with_context(|| format!("joining the kubeconfig {} to the others", path.display()))?;
    }
    let shown = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    let known = |wanted: &str| merged.contexts.iter().any(|one| one.name == wanted);
    if let Some(missing) = context.filter(|wanted| !known(wanted)) {
        let names: Vec<&str> = merged.contexts.iter().map(|one| one.name.as_str()).collect();
        bail!(
            "context was not found for specified context: {missing}; {shown} has {}",
            if names.is_empty() { "none".into() } else { names.join(", ") }
        );
    }
    let options =
        KubeConfigOptions { context: context.map(ToOwned::to_owned), ..Default::default() };
    let mut config = Config::from_custom_kubeconfig(merged, &options)
        .await
        .with_context(|| format!("using the kubeconfig {shown}"))?;
    // Followed logs and watches may be silent for long.
    config.read_timeout = None;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_kubeconfig_that_is_missing_never_means_another_cluster() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".kube")).unwrap();
        std::fs::write(home.path().join(".kube/config"), "").unwrap();
        let sources = |environment: Option<&str>| Sources {
            flag: None,
            environment: environment.map(ToOwned::to_owned),
            home: Some(home.path().to_owned()),
            data_dir: None,
        };
        assert_eq!(sources(None).find().unwrap(), [home.path().join(".kube/config")]);
        let error = sources(Some("/no/such/file")).find().unwrap_err().to_string();
        assert!(error.contains("/no/such/file") && !error.contains(".kube"), "{error}");
    }
}
