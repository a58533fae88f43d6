//! The first call of a node: its token and signing requests against certificates.
//!
//! The server is recognised by the hash in the token before anything is said to it.

use super::identity::Identity;
use crate::pinned;
use anyhow::{Context as _, Result};
use atoll_identity::{JoinToken, TokenUse, new_request, node_client_leaf, node_serving_leaf};
use std::net::IpAddr;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    client_certificate: String,
    serving_certificate: String,
    serving_authority: String,
    kubelet_authority: String,
}

pub async fn join(server: &str, token: &str, node: &str, ip: IpAddr) -> Result<Identity> {
    let token = JoinToken::parse(token).context("reading the join token")?;
    token.check_use(TokenUse::Agent)?;
    let (client_request, client_key) =
        new_request(&node_client_leaf(node)).context("making the node's key")?;
    let (serving_request, kubelet_key) = new_request(&node_serving_leaf(node, &[node], &[ip]))
        .context("making the kubelet's key")?;
    let body = serde_json::json!({
        "node": node,
        "clientRequest": client_request,
        "servingRequest": serving_request,
        "addresses": [ip],
    });
    let answer: Answer = pinned::post(server, &token, "/atoll/v1/join", body.to_string()).await?;
    Ok(Identity {
        client_key,
        client_certificate: answer.client_certificate,
        kubelet_key,
        kubelet_certificate: answer.serving_certificate,
        serving_authority: answer.serving_authority,
        kubelet_authority: answer.kubelet_authority,
    })
}
