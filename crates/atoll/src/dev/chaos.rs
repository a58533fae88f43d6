//! `atoll chaos`: breaks a node of a `dev` cluster on purpose, and mends it.
//!
//! The command asks the cluster's supervisor over a socket: one line of JSON each way.

use crate::client::output;
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
};
use tracing::debug;

/// A line on the socket is no longer.
const LINE_BYTES_MAX: u64 = 4_096;
/// A caller that does not finish its line.
const READ_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Chaos {
    /// kill: its processes die and its link goes down, as with a power cut;
    /// isolate: its link goes down; heal: its link and its processes come back
    action: Action,
    /// Which node, such as node-2
    node: String,
    /// The folder of the cluster
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Kill,
    Isolate,
    Heal,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub action: Action,
    pub node: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    ok: bool,
    message: String,
}

pub async fn run(chaos: Chaos) -> Result<std::process::ExitCode> {
    let folder = super::data_dir(chaos.data_dir.as_deref())?;
    let nothing_runs = || {
        format!(
            "no `atoll dev` cluster runs on {} (start one as root, or name its folder with --data-dir)",
            folder.display()
        )
    };
    let id = super::folder::cluster_in(&folder).with_context(nothing_runs)?;
    let path = super::nodes::control_of(&id);
    let stream = UnixStream::connect(&path).await.with_context(nothing_runs)?;
    let order = Order { action: chaos.action, node: chaos.node };
    let mut stream = BufReader::new(stream);
    let mut line = serde_json::to_string(&order).context("writing the order")?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await.context("sending the order")?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await.context("reading the answer")?;
    if answer.is_empty() {
        bail!("the cluster stopped before it had done that");
    }
    let answer: Answer = serde_json::from_str(&answer).context("reading the answer")?;
    if !answer.ok {
        bail!("{}", answer.message);
    }
    output::line(&answer.message);
    Ok(std::process::ExitCode::SUCCESS)
}

/// The supervisor's end of the socket.
pub struct Control(UnixListener);

/// One order, and the way to answer it.
pub struct Request {
    pub order: Order,
    stream: UnixStream,
}

impl Control {
    pub fn bind(path: &Path) -> Result<Self> {
        let name = path.display();
        if path.exists() {
            std::fs::remove_file(path).with_context(|| format!("removing the old {name}"))?;
        }
        let listener = UnixListener::bind(path).with_context(|| format!("listening at {name}"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("protecting {name}"))?;
        Ok(Self(listener))
    }

    /// The next order; `None` when a caller sent something else.
    pub async fn next(&self) -> Option<Request> {
        let (stream, _) = self.0.accept().await.ok()?;
        match tokio::time::timeout(READ_MAX, read(stream)).await {
            Ok(Ok(request)) => Some(request),
            Ok(Err(error)) => {
                debug!("an order was not understood: {error:#}");
                None
            }
            Err(_elapsed) => None,
        }
    }
}

async fn read(mut stream: UnixStream) -> Result<Request> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(LINE_BYTES_MAX)).read_line(&mut line).await?;
    let order = serde_json::from_str(&line)?;
    Ok(Request { order, stream })
}

impl Request {
    pub async fn answer(mut self, result: Result<String>) {
        let answer = match result {
            Ok(message) => Answer { ok: true, message },
            Err(error) => Answer { ok: false, message: format!("{error:#}") },
        };
        let mut line = serde_json::to_string(&answer).unwrap_or_default();
        line.push('\n');
        if let Err(error) = self.stream.write_all(line.as_bytes()).await {
            debug!(%error, "the caller did not wait for its answer");
        }
    }
}
