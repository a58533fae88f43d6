//! `atoll token create`: what a new node needs to join.

use crate::client::{connect::Connection, output};
use anyhow::{Context as _, Result};
use http::Request;
use kube::Client;
use serde::Deserialize;

#[derive(Debug, clap::Args)]
pub struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token with which one node can join
    Create {
        /// How long it can be used, in seconds
        #[arg(long, default_value_t = 24 * 3_600, value_name = "SECONDS")]
        ttl: i64,
        /// How to print it
        #[arg(short, long)]
        output: Option<crate::cli::Output>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    pub token: String,
    pub expires_at: String,
}

pub async fn run(connection: &Connection, token: &Token) -> Result<()> {
    let Action::Create { ttl, output: format } = &token.action;
    let created = create(&connection.client, *ttl).await?;
    match format {
        Some(format) => {
            let document =
                serde_json::json!({ "token": created.token, "expiresAt": created.expires_at });
            crate::client::get::print_document(&document, *format == crate::cli::Output::Yaml)
        }
        None => {
            output::line(&created.token);
            Ok(())
        }
    }
}

pub async fn create(client: &Client, ttl_seconds: i64) -> Result<Created> {
    let body = serde_json::json!({ "ttlSeconds": ttl_seconds }).to_string();
    let request = Request::post("/atoll/v1/join-tokens")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body.into_bytes())
        .context("building a request")?;
    client.request(request).await.context("making a join token")
}
