//! Asks kubelets what they have read.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use serde_json::Value;

use crate::body::BoxError;
use crate::call::Call;
use crate::stream;

/// Kubelets asked at once by one request.
const KUBELETS_MAX: usize = 16;
/// One that takes longer is left out of the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Of one kubelet's answer: a few hundred bytes for each container.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a kubelet says of its node and pods.
pub(super) struct Summary {
    pub(super) node: String,
    pub(super) answer: Value,
}

pub(super) async fn all(call: &Call, nodes: &[String]) -> Vec<Summary> {
    let mut asking = Vec::with_capacity(nodes.len());
    for node in nodes {
        asking.push(one(call, node).boxed());
    }
    let answers: Vec<Option<Summary>> =
        futures::stream::iter(asking).buffer_unordered(KUBELETS_MAX).collect().await;
    answers.into_iter().flatten().collect()
}

async fn one(call: &Call, node: &str) -> Option<Summary> {
    match tokio::time::timeout(TIMEOUT, summary(call, node)).await {
        Ok(Ok(answer)) => return Some(Summary { node: node.to_owned(), answer }),
        Ok(Err(error)) => tracing::debug!(%node, %error, "a node's use is not known"),
        Err(_elapsed) => tracing::debug!(%node, "a node does not say what it uses"),
    }
    None
}

async fn summary(call: &Call, node: &str) -> Result<Value, BoxError> {
    let (host, port) = stream::kubelet(call, node).map_err(|status| status.to_string())?;
    let authority =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let stream = stream::to_kubelet(call, &host, &authority).await?;
    let request = Request::builder()
        .method(Method::GET)
        .uri("/stats/summary")
        .header(http::header::HOST, &authority)
        .body(Empty::<Bytes>::new())?;
    let answer = stream::ask(call, stream, request).await?;
    if !answer.status().is_success() {
        return Err(format!("the kubelet answers {}", answer.status()).into());
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await?;
    Ok(serde_json::from_slice(&body.to_bytes())?)
}
