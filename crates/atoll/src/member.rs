//! `atoll member`: the servers of the cluster, and the vote of each.

use crate::client::{connect::Connection, output, table::Table};
use anyhow::{Context as _, Result};
use http::Request;
use kube::Client;
use serde::{Deserialize, Serialize};

const PATH: &str = "/atoll/v1/members";

#[derive(Debug, clap::Args)]
pub struct Members {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the servers
    List {
        /// How to print them
        #[arg(short, long)]
        output: Option<crate::cli::Output>,
    },
    /// Take a server out for good; it comes back only as a new one, with a new token
    ///
    /// Refused when the others could not go on without it.
    Remove {
        /// Its name or its id
        name: String,
        /// Whatever follows from it
        #[arg(long)]
        force: bool,
    },
    /// Give a server that has caught up its vote; the leader does that by itself
    Promote {
        /// Its name or its id
        name: String,
    },
    /// Let a server lead
    Lead {
        /// Its name or its id
        name: String,
    },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    pub leader: Option<String>,
    pub term: u64,
    /// In which new things are written; a server of an early release does not say it.
    #[serde(default)]
    pub format_level: Option<u32>,
    pub members: Vec<Member>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub id: String,
    pub name: String,
    pub peer_address: String,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
    #[serde(default)]
    pub is_leader: bool,
    #[serde(default)]
    pub is_there: bool,
    /// The version of its program, as it last said.
    #[serde(default)]
    pub release: Option<String>,
    /// The highest format level that it supports, where it was heard of.
    #[serde(default)]
    pub format_level_supported: Option<u32>,
}

pub async fn run(connection: &Connection, members: &Members) -> Result<()> {
    let client = &connection.client;
    match &members.action {
        Action::List { output } => show(&list(client).await?, *output),
        Action::Remove { name, force } => {
            let path = format!("{PATH}/{name}{}", if *force { "?force=true" } else { "" });
            let gone = ask(client, Request::delete(path)).await?;
            output::line(&format!("member/{} removed", gone.name));
            Ok(())
        }
        Action::Promote { name } => {
            let done = ask(client, Request::post(format!("{PATH}/{name}/promote"))).await?;
            output::line(&format!("member/{} has a vote", done.name));
            Ok(())
        }
        Action::Lead { name } => {
            let done = ask(client, Request::post(format!("{PATH}/{name}/lead"))).await?;
            output::line(&format!("member/{} is asked to lead", done.name));
            Ok(())
        }
    }
}

pub async fn list(client: &Client) -> Result<List> {
    let request = Request::get(PATH).body(Vec::new()).context("building a request")?;
    client.request(request).await.context("asking for the servers")
}

async fn ask(client: &Client, request: http::request::Builder) -> Result<Member> {
    let request = request.body(Vec::new()).context("building a request")?;
    client.request(request).await.context("asking the servers")
}

fn show(list: &List, format: Option<crate::cli::Output>) -> Result<()> {
    if let Some(format) = format {
        let document = serde_json::to_value(list).context("writing the list")?;
        return crate::client::get::print_document(&document, format == crate::cli::Output::Yaml);
    }
    let mut members: Vec<&Member> = list.members.iter().collect();
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = members.into_iter().map(|one| {
        vec![
            one.name.clone(),
            one.id.clone(),
            role(one).to_owned(),
            if one.is_there { "yes" } else { "no" }.to_owned(),
            one.release.clone().unwrap_or_else(|| "-".to_owned()),
            one.peer_address.clone(),
            one.client_urls.join(","),
        ]
    });
    let columns = ["NAME", "ID", "ROLE", "THERE", "RELEASE", "PEERS CALL", "CLIENTS CALL"];
    let columns = columns.map(ToOwned::to_owned).to_vec();
    output::write(&Table { columns, rows: rows.collect() }.render(true));
    Ok(())
}

fn role(member: &Member) -> &'static str {
    match (member.is_leader, member.is_learner) {
        (true, _) => "leader",
        (false, true) => "learner",
        (false, false) => "follower",
    }
}
