//! A thin registry client: manifests and blobs, tokens, mirrors, resume.
//!
//! All its sockets live on one thread, which may stand in another network namespace: a
//! socket belongs for ever to the namespace of the thread that made it.

mod auth;
mod http;
mod thread;

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use ::http::{StatusCode, Uri};
use bytes::Bytes;
use http_body_util::BodyExt;

use crate::config::{Credentials, RegistryConfig};
use crate::error::Error;
use crate::manifest::{self, MANIFEST_BYTES_MAX};
use crate::reference::Reference;

pub(crate) use auth::fuzz_refusal;
pub(crate) use thread::NetThread;

use auth::Authorizer;
pub(crate) use http::Transport;
use http::{Answer, Failure};

/// Redirects of one request, as blobs lie in object stores.
const REDIRECTS_MAX: u32 = 5;

/// A registry that says nothing for so long is given up; what has arrived is kept.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a registry says about an error is shown up to this length.
const REASON_BYTES_MAX: usize = 512;

/// One place where an image may be had.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io`, no slash at the end.
    base: String,
    /// For messages.
    host: String,
}

/// Where to look, mirrors first.
pub(crate) fn endpoints(reference: &Reference, config: &RegistryConfig) -> Vec<Endpoint> {
    let mut list = Vec::new();
    for mirror in config.mirrors.get(&reference.registry).into_iter().flatten() {
        let base = mirror.trim_end_matches('/').to_owned();
        let host = base.split("://").last().unwrap_or(&base).to_owned();
        list.push(Endpoint { base, host });
    }
    let host = reference.registry_host().to_owned();
    let scheme = if is_plain(&host, config) { "http" } else { "https" };
    list.push(Endpoint { base: format!("{scheme}://{host}"), host });
    list
}

/// Loopback and what the configuration names are spoken to without TLS.
fn is_plain(host: &str, config: &RegistryConfig) -> bool {
    if config.plain_http.iter().any(|plain| plain == host) {
        return true;
    }
    let bare = match host.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or(inner),
        None => host.split(':').next().unwrap_or(host),
    };
    bare == "localhost"
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Talks to one endpoint about one repository.
pub(crate) struct Client {
    transport: Arc<Transport>,
    endpoint: Endpoint,
    repository: String,
    image: String,
    authorizer: Authorizer,
}

/// A blob on its way.
pub(crate) struct BlobStream {
    answer: Answer,
    /// The registry goes on where we asked it to; otherwise it begins anew.
    pub(crate) resumed: bool,
}

impl Client {
    pub(crate) fn new(
        transport: Arc<Transport>,
        endpoint: Endpoint,
        reference: &Reference,
        credentials: &[Credentials],
    ) -> Client {
        let authorizer = Authorizer::new(&reference.repository, credentials);
        Client {
            transport,
            endpoint,
            repository: reference.repository.clone(),
            image: reference.to_string(),
            authorizer,
        }
    }

    /// The credentials that it took, if any.
    pub(crate) async fn shown(&self) -> Option<Credentials> {
        self.authorizer.shown().await
    }

    /// A manifest or index by tag or digest, with its digest checked or computed.
    pub(crate) async fn manifest(&self, version: &str) -> Result<(String, Bytes), Error> {
        let path = format!("/v2/{}/manifests/{version}", self.repository);
        let answer = self.get(&path, Some(manifest::ACCEPT), None).await?;
        let bytes = self.body(answer, MANIFEST_BYTES_MAX, "its manifest").await?;
        let actual = crate::digest::of(&bytes);
        if version.starts_with("sha256:") && version != actual {
            return Err(Error::WrongDigest {
                image: self.image.clone(),
                what: "its manifest".to_owned(),
                expected: version.to_owned(),
                actual,
            });
        }
        Ok((actual, bytes))
    }

    /// A small blob, checked.
    pub(crate) async fn small_blob(&self, digest: &str, bytes_max: u64) -> Result<Bytes, Error> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let answer = self.get(&path, None, None).await?;
        let bytes = self.body(answer, bytes_max, "its configuration").await?;
        let actual = crate::digest::of(&bytes);
        if actual == digest {
            return Ok(bytes);
        }
        Err(Error::WrongDigest {
            image: self.image.clone(),
            what: "its configuration".to_owned(),
            expected: digest.to_owned(),
            actual,
        })
    }

    /// A blob from an offset on.
    pub(crate) async fn blob(&self, digest: &str, from: u64) -> Result<BlobStream, Error> {
        let path = format!("/v2/{}/blobs/{digest}", self.repository);
        let range = (from > 0).then_some(from);
        let answer = self.get(&path, None, range).await?;
        let resumed = answer.status == StatusCode::PARTIAL_CONTENT
            && answer
                .headers
                .get(CONTENT_RANGE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|value| value.starts_with(&format!("bytes {from}-")));
        Ok(BlobStream { answer, resumed })
    }

    async fn body(&self, mut answer: Answer, max: u64, what: &str) -> Result<Bytes, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(e))? {
            if (bytes.len() + chunk.len()) as u64 > max {
                return Err(Error::Invalid {
                    image: self.image.clone(),
                    what: what.to_owned(),
                    reason: format!("it is larger than {max} bytes"),
                });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }

    fn unreachable(&self, failure: Failure) -> Error {
        Error::Unreachable {
            image: self.image.clone(),
            registry: self.endpoint.host.clone(),
            source: Box::new(failure),
        }
    }

    /// A request with what authorisation it takes, and with redirects followed.
    async fn get(
        &self,
        path: &str,
        accept: Option<&'static str>,
        from: Option<u64>,
    ) -> Result<Answer, Error> {
        let url = format!("{}{path}", self.endpoint.base);
        let mut answer = self.send(&url, accept, from, self.authorizer.header().await).await?;
        while answer.status == StatusCode::UNAUTHORIZED {
            let challenge = auth::challenge(&answer.headers);
            let progress = self
                .authorizer
                .answer(&self.transport, &self.endpoint.base, challenge)
                .await
                .map_err(|e| self.unreachable(e))?;
            if !progress {
                return Err(self.refusal(answer).await);
            }
            answer = self.send(&url, accept, from, self.authorizer.header().await).await?;
        }
        match answer.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(answer),
            // What we have is all there is, or belongs to something else.
            StatusCode::RANGE_NOT_SATISFIABLE if from.is_some() => {
                let header = self.authorizer.header().await;
                let answer = self.send(&url, accept, None, header).await?;
                if answer.status == StatusCode::OK {
                    Ok(answer)
                } else {
                    Err(self.refusal(answer).await)
                }
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    async fn send(
        &self,
        url: &str,
        accept: Option<&'static str>,
        from: Option<u64>,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, Error> {
        let mut url: Uri = self.parse(url)?;
        let mut authorization = authorization;
        for _ in 0..=REDIRECTS_MAX {
            let mut request = ::http::Request::get(&url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if let Some(from) = from {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            let answer = self.transport.send(request).await.map_err(|e| self.unreachable(e))?;
            if !answer.status.is_redirection() {
                return Ok(answer);
            }
            let target = answer.headers.get(LOCATION).and_then(|v| v.to_str().ok());
            let next = self.join(&url, target.unwrap_or_default())?;
            // The secret is for the registry, not for whom it points to.
            if next.authority() != url.authority() {
                authorization = None;
            }
            url = next;
        }
        Err(self.registry_error("more redirects than are followed".to_owned()))
    }

    fn parse(&self, url: &str) -> Result<Uri, Error> {
        url.parse().map_err(|e| self.registry_error(format!("the address {url:?} ({e})")))
    }

    fn join(&self, base: &Uri, target: &str) -> Result<Uri, Error> {
        if target.starts_with("http://") || target.starts_with("https://") {
            return self.parse(target);
        }
        let scheme = base.scheme_str().unwrap_or("https");
        let authority = base.authority().map_or("", |a| a.as_str());
        if target.starts_with('/') {
            return self.parse(&format!("{scheme}://{authority}{target}"));
        }
        Err(self.registry_error(format!("a redirect to {target:?}")))
    }

    fn registry_error(&self, reason: String) -> Error {
        Error::Registry { image: self.image.clone(), registry: self.endpoint.host.clone(), reason }
    }

    /// The registry's no, in its own words and our terms.
    async fn refusal(&self, mut answer: Answer) -> Error {
        let mut text = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await {
            text.extend_from_slice(&chunk);
            if text.len() > REASON_BYTES_MAX {
                break;
            }
        }
        let status = answer.status;
        let said = auth::first_message(&text).unwrap_or_default();
        let reason = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
        let (image, registry) = (self.image.clone(), self.endpoint.host.clone());
        match status {
            StatusCode::NOT_FOUND => Error::NotFound { image, registry, reason },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let tried = self.authorizer.has_credentials();
                Error::Unauthorized { image, registry, reason, tried }
            }
            _ => Error::Registry { image, registry, reason },
        }
    }
}

impl BlobStream {
    /// The next piece; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        self.answer.chunk().await
    }
}

impl Answer {
    /// The next piece of the body, within the time that silence may last.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = tokio::time::timeout(SILENCE_MAX, self.body.frame())
                .await
                .map_err(|_elapsed| Failure::Silent(SILENCE_MAX.as_secs()))?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Failure::Body(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_spoken_to_in_plain_and_mirrors_come_first() {
        let mut config = RegistryConfig::default();
        let local: Reference = "127.0.0.1:5000/a".parse().unwrap();
        assert_eq!(endpoints(&local, &config)[0].base, "http://127.0.0.1:5000");
        let hub: Reference = "node".parse().unwrap();
        config.mirrors.insert("docker.io".into(), vec!["http://[::1]:5000/".into()]);
        let bases: Vec<String> = endpoints(&hub, &config).into_iter().map(|e| e.base).collect();
        assert_eq!(bases, ["http://[::1]:5000", "https://registry-1.docker.io"]);
    }
}
