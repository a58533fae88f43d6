//! `atoll check`: is everything well, and what to do if not.
//!
//! Each server answers for itself, so all of them are asked; one that does not answer is a
//! finding like any other.

mod formats;
mod judge;
mod rejoins;

use crate::{
    client::{connect, output, table::Table},
    member,
};
use anyhow::{Context as _, Result};
use futures::future::join_all;
use http::Request;
use jiff::Timestamp;
use judge::{Finding, judge};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// A server that takes longer is not well.
const ANSWER_MAX: Duration = Duration::from_secs(6);

#[derive(Debug, clap::Args)]
pub struct Check {
    /// How to print it
    #[arg(short, long)]
    output: Option<crate::cli::Output>,
    /// The folder of a cluster of `atoll dev`, in place of a kubeconfig
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// One server, and what it says of itself.
#[derive(Debug, Clone)]
struct Asked {
    name: String,
    url: String,
    answer: Result<Value, String>,
}

/// Everything that was heard.
#[derive(Debug, Clone)]
struct Heard {
    servers: Vec<Asked>,
    nodes: Value,
    deployments: Value,
}

/// Ends with 1 when something is wrong.
pub async fn run(files: &[PathBuf], context: Option<&str>, check: &Check) -> Result<ExitCode> {
    let config = connect::config_merged(files, context).await?;
    let heard = hear(&config).await?;
    let findings = judge(&heard, Timestamp::now());
    match check.output {
        Some(format) => {
            let document = document(&heard, &findings);
            crate::client::get::print_document(&document, format == crate::cli::Output::Yaml)?;
        }
        None => print(&heard, &findings),
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn hear(config: &Config) -> Result<Heard> {
    let url = config.cluster_url.clone();
    let client =
        Client::try_from(config.clone()).with_context(|| format!("connecting to {url}"))?;
    let own = get(&client, "/atoll/v1/check").await.map_err(|why| {
        anyhow::anyhow!(
            "{url} does not answer: {why}; start the server there, or name another server's kubeconfig with --kubeconfig"
        )
    })?;
    let known = servers(&own, &url.to_string());
    let asked = known.into_iter().map(|(name, address)| ask(config, name, address, &own));
    let servers = join_all(asked).await;
    // What is there is better than nothing, also without a majority.
    let nodes = get(&client, "/api/v1/nodes?resourceVersion=0").await;
    let deployments = get(&client, "/apis/apps/v1/deployments?resourceVersion=0").await;
    Ok(Heard {
        servers,
        nodes: nodes.unwrap_or(Value::Null),
        deployments: deployments.unwrap_or(Value::Null),
    })
}

/// Names and URLs of all servers, as one of them tells.
fn servers(own: &Value, url: &str) -> Vec<(String, String)> {
    let members: Vec<member::Member> =
        serde_json::from_value(own["cluster"]["members"].clone()).unwrap_or_default();
    let mut known: Vec<(String, String)> = members
        .into_iter()
        .map(|one| (one.name, one.client_urls.into_iter().next().unwrap_or_default()))
        .collect();
    if known.is_empty() {
        let live = own["servers"].as_array().into_iter().flatten();
        known.extend(live.filter_map(|one| {
            Some((
                one["name"].as_str()?.to_owned(),
                format!("https://{}", one["address"].as_str()?),
            ))
        }));
    }
    if known.is_empty() {
        known.push((own["server"].as_str().unwrap_or_default().to_owned(), url.to_owned()));
    }
    known.sort();
    known
}

/// The one that answered before is not asked again: it may be reached by another address.
async fn ask(config: &Config, name: String, url: String, own: &Value) -> Asked {
    if own["server"] == name.as_str() {
        return Asked { name, url, answer: Ok(own.clone()) };
    }
    let answer = async {
        let mut config = config.clone();
        config.cluster_url = url.parse().map_err(|error| format!("{url}: {error}"))?;
        config.connect_timeout = Some(ANSWER_MAX / 2);
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        get(&client, "/atoll/v1/check").await
    };
    let answer = answer.await;
    Asked { name, url, answer }
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    match tokio::time::timeout(ANSWER_MAX, client.request(request)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(crate::causes(&error.into())),
        Err(_elapsed) => Err(format!("no answer within {} s", ANSWER_MAX.as_secs())),
    }
}

fn document(heard: &Heard, findings: &[Finding]) -> Value {
    let (leader, term) = judge::leader(heard);
    let servers = heard.servers.iter().map(|server| match &server.answer {
        Ok(answer) => {
            let mut one = answer.clone();
            one["url"] = json!(server.url);
            one["answers"] = json!(true);
            one["lag"] = json!(judge::lag(heard, answer));
            one
        }
        Err(why) => json!({
            "server": server.name, "url": server.url, "answers": false, "problem": why,
        }),
    });
    json!({
        "healthy": findings.is_empty(),
        "store": { "leader": leader, "term": term },
        "servers": servers.collect::<Vec<Value>>(),
        "findings": findings.iter().map(|one| json!({
            "about": one.about, "problem": one.problem, "remedy": one.remedy,
        })).collect::<Vec<Value>>(),
    })
}

fn print(heard: &Heard, findings: &[Finding]) {
    let (leader, _) = judge::leader(heard);
    let rows = heard.servers.iter().map(|server| {
        let Ok(answer) = &server.answer else {
            let mut row = vec![server.name.clone(), "does not answer".to_owned()];
            row.resize(8, "-".to_owned());
            return row;
        };
        let number = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64);
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        vec![
            server.name.clone(),
            judge::role(answer, leader.as_deref()).to_owned(),
            text(number("/store/term").map(|term| term.to_string())),
            text(judge::lag(heard, answer).map(|lag| lag.to_string())),
            text(number("/machine/syncMicroseconds").map(milliseconds)),
            text(
                number("/store/liveBytes")
                    .zip(number("/store/quotaBytes"))
                    .map(|(live, all)| format!("{} of {}", bytes(live), bytes(all))),
            ),
            text(number("/machine/diskFreeBytes").map(bytes)),
            text(judge::certificate_end(answer)),
        ]
    });
    let columns = ["SERVER", "ROLE", "TERM", "LAG", "DISK", "STORE", "FREE", "CERTIFICATES"];
    let columns = columns.map(ToOwned::to_owned).to_vec();
    output::write(&Table { columns, rows: rows.collect() }.render(true));
    if findings.is_empty() {
        output::line("Everything is well.");
    }
    for one in findings {
        output::line(&format!("{}: {}; {}", one.about, one.problem, one.remedy));
    }
    rejoins::notes(heard).iter().for_each(|note| output::line(note));
}

/// With two digits that count: a fast disk has not "0.0 ms".
fn milliseconds(micros: u64) -> String {
    match micros {
        0..1_000 => format!("0.{:02} ms", micros.div_ceil(10).min(99)),
        _ => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1_048_576 => format!("{} KiB", count >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", count >> 20),
        _ => format!("{} GiB", count >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_disk_has_a_latency_too() {
        let shown = [0, 4, 40, 444, 999, 1_000, 12_345].map(milliseconds);
        let expected = ["0.00 ms", "0.01 ms", "0.04 ms", "0.45 ms", "0.99 ms", "1.0 ms", "12.3 ms"];
        assert_eq!(shown, expected);
    }
}
