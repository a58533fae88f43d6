//! HTTP probes and hooks: one GET without keep-alive, certificates unverified.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{ContainerPort, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::probe::{Outcome, tcp};
use crate::tls;

/// More of a body is not read.
const BODY_BYTES_MAX: usize = 10 << 10;
const REDIRECTS_MAX: usize = 10;

/// Where and how to ask.
#[derive(Debug, Clone)]
pub struct Target {
    scheme: &'static str,
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
}

/// A port by number or by the container's name for it.
pub fn port_number(port: &IntOrString, ports: &[ContainerPort]) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => match text.parse() {
            Ok(number) => number,
            Err(_a_name) => ports
                .iter()
                .find(|p| p.name.as_deref() == Some(text))
                .map(|p| p.container_port)
                .ok_or_else(|| format!("couldn't find port: {text}"))?,
        },
    };
    u16::try_from(number)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

impl Target {
    pub fn of(
        action: &HTTPGetAction,
        ports: &[ContainerPort],
        ip: &str,
        user_agent: &str,
    ) -> Result<Target, String> {
        let host = action.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_owned());
        let path = action.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".to_owned());
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let https = action.scheme.as_deref() == Some("HTTPS");
        let mut headers = HeaderMap::new();
        for wanted in action.http_headers.iter().flatten() {
            let name = HeaderName::try_from(wanted.name.as_str()).map_err(|e| e.to_string())?;
            let value = HeaderValue::try_from(wanted.value.as_str()).map_err(|e| e.to_string())?;
            headers.append(name, value);
        }
        for (name, value) in [(header::USER_AGENT, user_agent), (header::ACCEPT, "*/*")] {
            if !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::try_from(value).map_err(|e| e.to_string())?);
            }
        }
        let scheme = if https { "https" } else { "http" };
        Ok(Target { scheme, host, port: port_number(&action.port, ports)?, path, headers })
    }

    /// The status decides; redirects are followed on the same host only.
    pub async fn probe(mut self, timeout: Duration) -> Outcome {
        let deadline = tokio::time::Instant::now() + timeout;
        for _ in 0..=REDIRECTS_MAX {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let answer = match self.get(left).await {
                Ok(answer) => answer,
                Err(reason) => {
                    return Outcome::Failure(format!("Get \"{}\": {reason}", self.url()));
                }
            };
            let (status, location) = answer;
            if !status.is_redirection() {
                return judge(status);
            }
            let Some(location) = location else { return Outcome::Success };
            match self.redirected(&location) {
                Some(next) => self = next,
                None => {
                    return Outcome::Warning(
                        "Probe terminated redirects, Response body: ".to_owned(),
                    );
                }
            }
        }
        Outcome::Failure(format!("Get \"{}\": stopped after 10 redirects", self.url()))
    }

    fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, tcp::join(&self.host, self.port), self.path)
    }

    /// `None` when the way leads to another host.
    fn redirected(&self, location: &str) -> Option<Target> {
        let mut next = self.clone();
        if location.starts_with('/') && !location.starts_with("//") {
            location.clone_into(&mut next.path);
            return Some(next);
        }
        let uri: Uri = location.parse().ok()?;
        if uri.host()? != self.host {
            return None;
        }
        next.scheme = if uri.scheme_str() == Some("https") { "https" } else { "http" };
        let default_port = if next.scheme == "https" { 443 } else { 80 };
        next.port = uri.port_u16().unwrap_or(default_port);
        next.path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Some(next)
    }

    /// The status and where a redirect leads.
    pub async fn get(&self, timeout: Duration) -> Result<(StatusCode, Option<String>), String> {
        let ask = async {
            let stream = tcp::connect(&self.host, self.port, timeout).await?;
            if self.scheme == "https" {
                let connector =
                    tokio_rustls::TlsConnector::from(Arc::new(tls::unverified_client()?));
                let name = tls::server_name(&self.host)?;
                let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
                self.exchange(stream).await
            } else {
                self.exchange(stream).await
            }
        };
        match tokio::time::timeout(timeout, ask).await {
            Ok(result) => result,
            Err(_elapsed) => Err("context deadline exceeded (Client.Timeout exceeded while \
                                  awaiting headers)"
                .to_owned()),
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(StatusCode, Option<String>), String> {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(describe)?;
        let mut request =
            Request::get(&self.path).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if !headers.contains_key(header::HOST) {
            let host = HeaderValue::try_from(tcp::join(&self.host, self.port));
            headers.insert(header::HOST, host.map_err(|e| e.to_string())?);
        }
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let exchange = async {
            let response = sender.send_request(request).await.map_err(describe)?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|l| l.to_str().ok()).map(str::to_owned);
            // A body that is too long or breaks off does not change the verdict.
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
            tracing::trace!(complete = body.is_ok(), "probe body read");
            Ok((status, location))
        };
        tokio::pin!(exchange);
        tokio::select! {
            biased;
            result = &mut exchange => result,
            // The answer may have come whole before the connection ended.
            ended = connection => {
                let answer = exchange.await;
                if answer.is_err() { ended.map_err(describe)?; }
                answer
            }
        }
    }
}

fn judge(status: StatusCode) -> Outcome {
    if (200..400).contains(&status.as_u16()) {
        Outcome::Success
    } else {
        Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used as map_err's function")]
fn describe(error: hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() {
        "EOF".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
#[path = "http/tests.rs"]
mod tests;
