//! Agrees with a client on the protocol of a stream: WebSocket or SPDY, and which version.

use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};

use crate::kubelet::{Answer, text};

/// What a WebSocket client offers when it offers nothing.
const UNNAMED: &str = "";
const STREAM_VERSION: &str = "x-stream-protocol-version";

/// The protocol agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// A subprotocol's name.
    WebSocket(String),
    /// The streams' version.
    Spdy(String),
}

/// Chooses the first of `websocket` or `spdy` (best first) that the client offers too.
pub fn agree(
    headers: &HeaderMap,
    websocket: &[&'static str],
    spdy: &[&'static str],
) -> Result<(Protocol, Answer), Box<Answer>> {
    let upgrade = header_text(headers, header::UPGRADE.as_str()).to_ascii_lowercase();
    if upgrade == "websocket" {
        return agree_websocket(headers, websocket);
    }
    if upgrade == "spdy/3.1" {
        return agree_spdy(headers, spdy);
    }
    Err(Box::new(text(StatusCode::BAD_REQUEST, "Upgrade request required")))
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn offers<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .collect()
}

fn agree_websocket(
    headers: &HeaderMap,
    known: &[&'static str],
) -> Result<(Protocol, Answer), Box<Answer>> {
    let offered = offers(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str());
    let chosen = known.iter().find(|name| offered.contains(*name)).copied();
    let chosen = match chosen {
        Some(chosen) => chosen,
        None if offered.is_empty() => UNNAMED,
        None => return Err(refused(&offered)),
    };
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().to_vec());
    let Some(key) = key else {
        return Err(Box::new(text(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing")));
    };
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(&key);
    let mut answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !chosen.is_empty() {
        answer = answer.header(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    Ok((Protocol::WebSocket(chosen.to_owned()), finish(answer)?))
}

fn agree_spdy(
    headers: &HeaderMap,
    known: &[&'static str],
) -> Result<(Protocol, Answer), Box<Answer>> {
    let offered = offers(headers, STREAM_VERSION);
    let chosen = known.iter().find(|name| offered.contains(*name)).copied();
    let Some(chosen) = chosen else { return Err(refused(&offered)) };
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(STREAM_VERSION, chosen);
    Ok((Protocol::Spdy(chosen.to_owned()), finish(answer)?))
}

fn finish(answer: http::response::Builder) -> Result<Answer, Box<Answer>> {
    let body = Empty::new().map_err(|never| match never {}).boxed();
    answer
        .body(body)
        .map_err(|error| Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

fn refused(offered: &[&str]) -> Box<Answer> {
    let reason = format!("unable to negotiate protocol: client supports {offered:?}");
    Box::new(text(StatusCode::FORBIDDEN, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_best_common_version_wins() {
        let offered = headers(&[
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v4.channel.k8s.io, v5.channel.k8s.io"),
        ]);
        let known = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        let (protocol, answer) = agree(&offered, &known, &[]).unwrap();
        assert_eq!(protocol, Protocol::WebSocket("v5.channel.k8s.io".into()));
        assert_eq!(answer.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let spdy = headers(&[("upgrade", "SPDY/3.1"), (STREAM_VERSION, "v4.channel.k8s.io")]);
        let (protocol, answer) = agree(&spdy, &[], &known).unwrap();
        assert_eq!(protocol, Protocol::Spdy("v4.channel.k8s.io".into()));
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    }

    #[test]
    fn what_nobody_speaks_is_refused() {
        let none = headers(&[("upgrade", "SPDY/3.1"), (STREAM_VERSION, "v9")]);
        assert_eq!(agree(&none, &[], &["v4"]).unwrap_err().status(), StatusCode::FORBIDDEN);
        assert_eq!(agree(&headers(&[]), &[], &[]).unwrap_err().status(), StatusCode::BAD_REQUEST);
    }
}
