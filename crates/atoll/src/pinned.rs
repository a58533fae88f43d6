//! The first call to a cluster: a request with a join token to a server that is recognised by
//! the hash in it, before anything is said.

use anyhow::{Context as _, Result, bail};
use atoll_identity::{JoinToken, PinnedServer};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The server answers at once or not at all.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// `https://host:port`, as a server is named on the command line.
pub fn server_url(text: &str) -> Result<http::Uri> {
    let wrong = || format!("--join {text:?} is not a URL such as https://10.0.0.1:6443");
    let url: http::Uri = text.parse().with_context(wrong)?;
    if url.scheme_str() != Some("https") || url.host().is_none() {
        bail!("{}", wrong());
    }
    Ok(url)
}

/// Host and port of a server.
pub fn host_and_port(url: &http::Uri) -> Result<(&str, u16)> {
    Ok((url.host().context("the URL of --join has no host")?, url.port_u16().unwrap_or(6443)))
}

/// What `server` answers to a POST of `body` at `path`.
pub async fn post<T: serde::de::DeserializeOwned>(
    server: &str,
    token: &JoinToken,
    path: &str,
    body: String,
) -> Result<T> {
    tokio::time::timeout(ANSWER_MAX, exchange(server, token, path, body))
        .await
        .map_err(|_elapsed| {
            anyhow::anyhow!(
                "{server} did not answer within {} s; check that the server runs there, and that nothing between filters its port",
                ANSWER_MAX.as_secs()
            )
        })?
        .with_context(|| format!("joining the cluster at {server}"))
}

async fn exchange<T: serde::de::DeserializeOwned>(
    server: &str,
    token: &JoinToken,
    path: &str,
    body: String,
) -> Result<T> {
    let url = server_url(server)?;
    let (host, port) = host_and_port(&url)?;
    let host = host.to_owned();
    let stream = TcpStream::connect((host.as_str(), port)).await.with_context(|| {
        format!("{host}:{port} is not reached; check that the server runs there, and --join")
    })?;
    let name = ServerName::try_from(host.clone())
        .with_context(|| format!("{host:?} is not a host's name or address"))?;
    let stream = tls(token)?.connect(name, stream).await.map_err(|error| {
        // TLS prints the refusal of our own check in its raw form.
        match PinnedServer::refusal(&error) {
            Some(refusal) => anyhow::anyhow!(
                "{refusal}; take a token of that cluster, or the address of the token's"
            ),
            None => anyhow::Error::new(error)
                .context(format!("{host}:{port} does not answer as an Atoll server does")),
        }
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("speaking HTTP")?;
    let request = Request::post(path)
        .header(http::header::HOST, format!("{host}:{port}"))
        .header(http::header::AUTHORIZATION, format!("Bearer {}", token.reveal()))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .context("building a request")?;
    let exchange = async {
        let response = sender.send_request(request).await.context("asking to join")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("reading the answer: {error}"))?;
        Ok::<_, anyhow::Error>((status, body.to_bytes()))
    };
    let (status, text) = tokio::select! {
        exchanged = exchange => exchanged?,
        ended = connection => {
            ended.context("the connection failed")?;
            bail!("the server closed the connection without an answer");
        }
    };
    if status != StatusCode::OK {
        let document: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        bail!("{}", document["message"].as_str().unwrap_or("the server refused without a reason"));
    }
    serde_json::from_slice(&text).context("reading the server's answer")
}

fn tls(token: &JoinToken) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = PinnedServer::new(token.clone(), provider.clone());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
