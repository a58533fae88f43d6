//! `atoll secrets`: the key that Secrets are sealed with in the store.

use crate::client::{connect::Connection, output, table::Table};
use anyhow::{Context as _, Result};
use http::Request;
use kube::Client;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const PATH: &str = "/atoll/v1/secrets";
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How long no server may answer before the command gives up looking; the servers do not.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Secrets {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show which key is in use, and what each server knows
    Status {
        /// How to print it
        #[arg(short, long)]
        output: Option<crate::cli::Output>,
    },
    /// Make a new key, have everything sealed with it, and drop the old one
    ///
    /// All servers must be there. One that is down is waited for, since it could read nothing
    /// afterwards; `atoll member remove` takes out one that does not come back. The command can be
    /// ended and given again at any time: the servers go on by themselves.
    RotateKey,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stand {
    key: String,
    resources: Vec<String>,
    servers: Vec<Server>,
    rotation: Option<Rotation>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Server {
    name: String,
    keys: Vec<String>,
    seals_with: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    key: String,
    phase: String,
    started_at: String,
    rewritten: u64,
    waits_for: Vec<String>,
}

pub async fn run(connection: &Connection, secrets: &Secrets) -> Result<()> {
    let client = &connection.client;
    match &secrets.action {
        Action::Status { output } => show(&read(client).await?, *output),
        Action::RotateKey => rotate(client).await,
    }
}

async fn read(client: &Client) -> Result<Stand> {
    let request = Request::get(PATH).body(Vec::new()).context("building a request")?;
    client.request(request).await.context("asking how Secrets are sealed")
}

/// Says each step once, and ends when the new key is the only one.
async fn rotate(client: &Client) -> Result<()> {
    let request = Request::post(format!("{PATH}/rotate-key")).body(Vec::new());
    let begun: Stand = client
        .request(request.context("building a request")?)
        .await
        .context("asking for a new key")?;
    let Some(key) = begun.rotation.as_ref().map(|one| one.key.clone()) else {
        anyhow::bail!("the servers did not say which key is new; `atoll secrets status` shows it")
    };
    let mut said = String::new();
    let mut stand = begun;
    while let Some(rotation) = stand.rotation.as_ref().filter(|one| one.key == key) {
        let step = step(rotation);
        if step != said {
            output::line(&step);
            said = step;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        stand = look_again(client).await?;
    }
    output::line(&format!("key {key} is in use, the former ones are dropped"));
    Ok(())
}

/// The server that answered may have died, and another has to take over first.
async fn look_again(client: &Client) -> Result<Stand> {
    let begun = tokio::time::Instant::now();
    loop {
        match read(client).await {
            Err(error) if begun.elapsed() < SILENCE_MAX => {
                tracing::debug!(%error, "will ask again");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => {
                return Err(error.context(
                    "the servers go on by themselves; `atoll secrets status` shows how far they are",
                ));
            }
            answered => return answered,
        }
    }
}

fn step(rotation: &Rotation) -> String {
    let waits = if rotation.waits_for.is_empty() {
        String::new()
    } else {
        format!(" (waiting for {})", rotation.waits_for.join(", "))
    };
    match rotation.phase.as_str() {
        "spread" => format!("1/4 every server learns the key {}{waits}", rotation.key),
        "use" => format!("2/4 every server seals with it{waits}"),
        "rewrite" => format!("3/4 sealing anew: {} values so far", rotation.rewritten),
        "drop" => format!("4/4 every server forgets the former keys{waits}"),
        other => format!("{other}{waits}"),
    }
}

fn show(stand: &Stand, format: Option<crate::cli::Output>) -> Result<()> {
    if let Some(format) = format {
        let document = serde_json::to_value(stand).context("writing the answer")?;
        return crate::client::get::print_document(&document, format == crate::cli::Output::Yaml);
    }
    let key = if stand.key.is_empty() { "none yet" } else { &stand.key };
    let resources =
        if stand.resources.is_empty() { "nothing".to_owned() } else { stand.resources.join(", ") };
    output::line(&format!("sealed: {resources}; key: {key}"));
    if let Some(rotation) = &stand.rotation {
        output::line(&step(rotation));
    }
    let rows = stand
        .servers
        .iter()
        .map(|one| vec![one.name.clone(), one.seals_with.clone(), one.keys.join(",")]);
    let columns = ["SERVER", "SEALS WITH", "KNOWS"].map(ToOwned::to_owned).to_vec();
    output::write(&Table { columns, rows: rows.collect() }.render(true));
    Ok(())
}
