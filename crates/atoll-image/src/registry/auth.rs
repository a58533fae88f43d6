//! Registry authorisation: basic, and tokens from a token service.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::{Failure, Transport};
use crate::config::Credentials;

const TOKEN_BYTES_MAX: usize = 1 << 20;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer(BTreeMap<String, String>),
}

/// The challenge that can be answered, if there is one.
pub(super) fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    headers.get_all(WWW_AUTHENTICATE).iter().find_map(|value| parse(value.to_str().ok()?))
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = BTreeMap::new();
    let mut rest = rest.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        parameters.insert(key.trim().to_ascii_lowercase(), value.to_owned());
        rest = after.trim_start_matches([',', ' ']);
    }
    Some(Challenge::Bearer(parameters))
}

/// For the fuzzer: the header and body of a refusal.
pub(crate) fn fuzz_refusal(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse(text);
    }
    first_message(bytes);
    drop(serde_json::from_slice::<Token>(bytes));
}

/// Tries the credentials one after the other, and without any when there are none.
pub(super) struct Authorizer {
    repository: String,
    has_credentials: bool,
    state: Arc<Mutex<State>>,
}

struct State {
    left: Vec<Option<Credentials>>,
    header: Option<HeaderValue>,
    /// Whose header it is; nobody's when it was got without credentials.
    shown: Option<Credentials>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Authorizer {
    pub(super) fn new(repository: &str, credentials: &[Credentials]) -> Authorizer {
        // From the back; a registry may give public images to anyone whose secret is old.
        let mut left: Vec<Option<Credentials>> = vec![None];
        left.extend(credentials.iter().rev().cloned().map(Some));
        Authorizer {
            repository: repository.to_owned(),
            has_credentials: !credentials.is_empty(),
            state: Arc::new(Mutex::new(State { left, header: None, shown: None })),
        }
    }

    /// The credentials with which the registry answered, if it took any.
    pub(super) async fn shown(&self) -> Option<Credentials> {
        self.state.lock().await.shown.clone()
    }

    /// Whether there was anything but asking without a name.
    pub(super) fn has_credentials(&self) -> bool {
        self.has_credentials
    }

    pub(super) async fn header(&self) -> Option<HeaderValue> {
        self.state.lock().await.header.clone()
    }

    /// Prepares the next try; false when there is none.
    pub(super) async fn answer(
        &self,
        transport: &Transport,
        base: &str,
        challenge: Option<Challenge>,
    ) -> Result<bool, Failure> {
        let mut state = self.state.lock().await;
        let Some(challenge) = challenge else { return Ok(false) };
        while let Some(credentials) = state.left.pop() {
            let header = match (&challenge, &credentials) {
                (Challenge::Basic, Some(credentials)) => Some(basic(credentials)),
                (Challenge::Basic, None) => None,
                (Challenge::Bearer(parameters), credentials) => {
                    self.token(transport, base, parameters, credentials.as_ref()).await?
                }
            };
            if header.is_some() {
                state.header = header;
                state.shown = credentials;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// `None` when the service refuses these credentials.
    async fn token(
        &self,
        transport: &Transport,
        base: &str,
        parameters: &BTreeMap<String, String>,
        credentials: Option<&Credentials>,
    ) -> Result<Option<HeaderValue>, Failure> {
        // A ready token needs no service.
        if let Some(ready) = credentials.filter(|c| c.username.is_empty()) {
            return Ok(bearer(&ready.password));
        }
        let Some(realm) = parameters.get("realm") else { return Ok(None) };
        // Secrets do not go out in the clear because a registry asks for it.
        if credentials.is_some() && base.starts_with("https://") && !realm.starts_with("https://") {
            return Ok(None);
        }
        let own_scope = format!("repository:{}:pull", self.repository);
        let scope = parameters.get("scope").unwrap_or(&own_scope);
        let separator = if realm.contains('?') { '&' } else { '?' };
        let mut url = format!("{realm}{separator}scope={}", escape(scope));
        if let Some(service) = parameters.get("service") {
            url.push_str(&format!("&service={}", escape(service)));
        }
        let mut request = ::http::Request::get(&url);
        if let Some(credentials) = credentials {
            request = request.header(AUTHORIZATION, basic(credentials));
        }
        let mut answer = transport.send(request).await?;
        if matches!(answer.status.as_u16(), 400 | 401 | 403) {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(Failure::Token { url: realm.clone(), status: answer.status });
        }
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > TOKEN_BYTES_MAX {
                return Ok(None);
            }
        }
        let Ok(token) = serde_json::from_slice::<Token>(&text) else { return Ok(None) };
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        Ok(bearer(&token))
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {token}"))
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    // Base64 is always a valid header.
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(pair)))
        .unwrap_or_else(|| HeaderValue::from_static(""))
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the registry says is wrong.
pub(super) fn first_message(text: &[u8]) -> Option<String> {
    let errors: Errors = serde_json::from_slice(text).ok()?;
    let first = errors.errors.into_iter().next()?;
    Some(if first.message.is_empty() { first.code } else { first.message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_challenges_that_registries_send() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/node:pull""#;
        let Some(Challenge::Bearer(found)) = parse(hub) else { panic!("bearer") };
        assert_eq!(found["realm"], "https://auth.docker.io/token");
        assert_eq!(found["scope"], "repository:library/node:pull");
        assert_eq!(parse(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
    }

    #[test]
    fn scopes_are_escaped() {
        assert_eq!(escape("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
