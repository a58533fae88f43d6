//! `atoll server --store etcd=…`: the whole platform on an etcd that somebody else runs.
//!
//! One server: what several of one cluster have to agree on is the members' of a store of its
//! own. The folder keeps the keys and the cluster's name in the etcd.

use super::{Server, api_settings, connections, controllers, examine, join, trust, wait_for_end};
use crate::{dev::folder::write_atomically, keys::Keys, memory, process::say_ready};
use anyhow::{Context as _, Result, bail, ensure};
use atoll_apiserver::{servers::ServersConfig, trust::Trust};
use atoll_controllers::election::Surroundings;
use atoll_etcd::external::{ExternalConfig, ExternalStore, ExternalTls, OpenError};
use atoll_store::Keyspace;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

/// What a server of an external store keeps in its folder.
const FILE: &str = "external-store.json";
const VERSION: u32 = 1;
/// Between two looks at an etcd that does not answer at the start.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, clap::Args)]
pub struct External {
    /// An etcd as the store, instead of one in the data folder, such as
    /// etcd=https://a:2379,https://b:2379; it is shared with others, under /atoll/<cluster>/
    #[arg(long, value_name = "etcd=URL,...", conflicts_with_all = ["join", "etcd_listen"])]
    pub store: Option<StoreFlag>,
    /// The authority that signs the etcd's certificates, PEM
    #[arg(long, value_name = "FILE", requires = "store")]
    pub store_ca: Option<PathBuf>,
    /// The certificate that the etcd is shown, PEM
    #[arg(long, value_name = "FILE", requires = "store", requires = "store_key")]
    pub store_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "store_cert")]
    pub store_key: Option<PathBuf>,
    /// Compact the etcd: all of its history, not this cluster's alone; without it the etcd's own
    /// --auto-compaction-retention has to
    #[arg(long, requires = "store")]
    pub store_compact: bool,
}

/// `etcd=` and the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFlag(Vec<String>);

impl std::str::FromStr for StoreFlag {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let endpoints = text
            .strip_prefix("etcd=")
            .with_context(|| format!("{text:?} is no store: write etcd=https://host:2379"))?;
        let all: Vec<String> = endpoints.split(',').map(|one| one.trim().to_owned()).collect();
        ensure!(all.iter().all(|one| !one.is_empty()), "{text:?} has an endpoint that is empty");
        Ok(Self(all))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    version: u32,
    cluster_id: String,
    /// The etcd has had the cluster, so one without it is the wrong one.
    is_claimed: bool,
}

/// Whether this server uses an external store. A folder stays with the kind that it began with:
/// otherwise a forgotten flag would begin an empty cluster.
pub fn is_chosen(server: &Server) -> Result<bool> {
    let folder = server.data_dir.display();
    let has_own = server.data_dir.join("store").exists();
    match (&server.external.store, Known::load(&server.data_dir)?) {
        (Some(_), None) if has_own => bail!(
            "{folder} has a store of its own, and --store names another: leave --store out, or \
             give another --data-dir"
        ),
        (None, Some(_)) => bail!(
            "the cluster of {folder} stands in an external etcd: give its --store again, or \
             another --data-dir"
        ),
        (chosen, _) => Ok(chosen.is_some()),
    }
}

pub async fn run(mut server: Server) -> Result<()> {
    let mut end = std::pin::pin!(wait_for_end(server.supervised));
    let name = join::settle(&mut server).await?.name;
    let known = Known::load(&server.data_dir)?.unwrap_or_else(Known::new);
    known.store(&server.data_dir)?;
    let config = config(&server, &known)?;
    let store = tokio::select! {
        ended = &mut end => return ended,
        opened = open(config) => opened?,
    };
    Known { is_claimed: true, ..known }.store(&server.data_dir)?;
    info!(version = %store.version(), cluster = store.cluster_id(), "the store is an etcd");
    for lack in store.lacks() {
        warn!(version = %store.version(), lack, "the etcd is old");
    }
    let stop = CancellationToken::new();
    let result = serve(&server, &name, &store, &stop, &mut end).await;
    stop.cancel();
    store.shutdown().await;
    result
}

fn config(server: &Server, known: &Known) -> Result<ExternalConfig> {
    let flags = &server.external;
    let StoreFlag(endpoints) = flags.store.clone().context("no --store is given")?;
    let mut config = ExternalConfig::new(endpoints, known.cluster_id.clone());
    config.is_known = known.is_claimed;
    config.compact = flags.store_compact;
    let read =
        |path: &PathBuf| std::fs::read(path).with_context(|| format!("reading {}", path.display()));
    if let Some(ca) = &flags.store_ca {
        let identity = match (&flags.store_cert, &flags.store_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        config.tls = Some(ExternalTls { ca_pem: read(ca)?, identity });
    }
    ensure!(
        config.tls.is_some() || flags.store_cert.is_none(),
        "--store-cert is of no use without --store-ca, which says who signs the etcd's certificate"
    );
    Ok(config)
}

/// Waits for an etcd that does not answer; what it refuses is for a person to set right.
async fn open(config: ExternalConfig) -> Result<ExternalStore> {
    let mut said = String::new();
    loop {
        match ExternalStore::open(config.clone()).await {
            Err(OpenError::Away { endpoints, reason }) => {
                if said != reason {
                    warn!(endpoints, reason, "waiting for the etcd");
                    said = reason;
                }
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            opened => return opened.context("opening the store"),
        }
    }
}

async fn serve(
    server: &Server,
    name: &str,
    store: &ExternalStore,
    stop: &CancellationToken,
    end: &mut (impl Future<Output = Result<()>> + Unpin),
) -> Result<()> {
    let now = Timestamp::now();
    let trust = trust(server, store.cluster_id(), now)?;
    // It is alone, so it acts for the cluster.
    let leads = watch::Sender::new(true);
    let config = api_config(server, name, store, &trust, leads.subscribe())?;
    let api = tokio::select! {
        ended = &mut *end => return ended,
        started = super::start_api(config) => started?,
    };
    let (control, tasks) = (TaskTracker::new(), TaskTracker::new());
    let former_self = name.to_owned();
    let surroundings = Surroundings {
        may_hold: leads.subscribe(),
        is_gone: Arc::new(move |holder: &str| {
            holder.rsplit_once('_').is_some_and(|(name, _)| name == former_self)
        }),
    };
    let retire = stop.child_token();
    controllers::start(&api, &trust, name, &surroundings, &control, &retire);
    connections::serve(server, &api, &tasks, stop).await?;
    super::write_kubeconfig(server, &trust, now)?;
    info!(listen = %server.listen, cluster = store.cluster_id(), "serving");
    if server.supervised {
        say_ready();
    }
    let ended = tokio::select! {
        ended = end => ended,
        never = memory::give_back() => match never {},
    };
    retire.cancel();
    finish(&control, "some controllers did not end in time").await;
    stop.cancel();
    api.shutdown().await;
    finish(&tasks, "some tasks did not end in time").await;
    drop(leads);
    ended
}

async fn finish(tasks: &TaskTracker, late: &'static str) {
    tasks.close();
    if tokio::time::timeout(super::STOP_MAX, tasks.wait()).await.is_err() {
        warn!("{late}");
    }
}

fn api_config(
    server: &Server,
    name: &str,
    store: &ExternalStore,
    trust: &Arc<Trust>,
    leads: watch::Receiver<bool>,
) -> Result<atoll_apiserver::Config> {
    let mut config = api_settings(server, store.keyspace(Keyspace::Cluster), trust)?;
    config.compacts = true;
    let (cluster, keys) = (store.cluster_id().to_owned(), server.keys());
    let folder = server.data_dir.clone();
    config.servers = Some(Arc::new(ServersConfig {
        name: name.to_owned(),
        cluster_id: store.cluster_id().to_owned(),
        member_id: 0,
        cluster: None,
        applications: None,
        leads,
        read_keys: Arc::new(move || {
            let bundle = Keys::open(&keys, &cluster).and_then(|keys| keys.bundle(Timestamp::now()));
            bundle.map_err(|error| format!("{error:#}"))
        }),
        prepare: Arc::new(|| {
            Err("a cluster on an external etcd has one server; it is the etcd that survives"
                .to_owned())
        }),
        examine: Arc::new(move || examine::document(&folder, None)),
    }));
    Ok(config)
}

impl Known {
    fn new() -> Self {
        let cluster_id = format!("{:032x}", rand::random::<u128>());
        Self { version: VERSION, cluster_id, is_claimed: false }
    }

    fn load(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", path.display()));
            }
        };
        let known: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged; restore it from a backup", path.display()))?;
        ensure!(
            known.version == VERSION,
            "{} has version {}, this program reads {VERSION}; use the program that wrote it",
            path.display(),
            known.version
        );
        Ok(Some(known))
    }

    fn store(&self, folder: &Path) -> Result<()> {
        if Self::load(folder)?.as_ref() == Some(self) {
            return Ok(());
        }
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let text = serde_json::to_vec_pretty(self).context("writing external-store.json")?;
        write_atomically(&folder.join(FILE), &text, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_kind_and_its_endpoints() {
        let read = |text: &str| text.parse::<StoreFlag>();
        assert_eq!(
            read("etcd=https://a:2379, https://b:2379").unwrap(),
            StoreFlag(vec!["https://a:2379".to_owned(), "https://b:2379".to_owned()])
        );
        for wrong in ["", "https://a", "etcd=", "etcd=https://a,", "postgres=a"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_folder_remembers_its_cluster() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Known::load(folder.path()).unwrap(), None);
        let known = Known::new();
        known.store(folder.path()).unwrap();
        assert_eq!(Known::load(folder.path()).unwrap(), Some(known.clone()));
        let newer = Known { version: 2, ..known };
        newer.store(folder.path()).unwrap();
        let refused = Known::load(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("has version 2, this program reads 1"), "{refused}");
    }
}
