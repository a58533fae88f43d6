//! Opens the store of a server.

use super::Server;
use anyhow::{Context as _, Result};
use atoll_store::{EmbeddedStore, OpenError, StoreConfig};
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// A former server that is ending needs no longer than that, and a little.
const FORMER_MAX: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub async fn open(server: &Server) -> Result<EmbeddedStore> {
    let dir = server.data_dir.join("store");
    let deadline = Instant::now() + FORMER_MAX;
    let mut said = false;
    loop {
        let config = StoreConfig { dir: dir.clone(), ..StoreConfig::default() };
        match EmbeddedStore::open(config).await {
            // The server of a killed supervisor is about to end.
            Err(OpenError::Locked { holder, .. })
                if server.supervised && Instant::now() < deadline =>
            {
                if !said {
                    info!(holder, "waiting for the former server to end");
                    said = true;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => {
                return opened.with_context(|| format!("opening the store {}", dir.display()));
            }
        }
    }
}
