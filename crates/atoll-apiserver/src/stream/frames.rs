//! Logs and watches over a WebSocket (RFC 6455): each piece of the log, or each event, is a
//! message, for clients that cannot read an answer while it grows.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::authn::TOKEN_PROTOCOL;
use crate::body::Body;
use crate::call::Call;
use crate::status::Status;
use crate::upgraded;

/// What the RFC has servers append to a client's key.
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const BINARY: &str = "binary.k8s.io";
/// Messages are text, in base64.
const BASE64: &str = "base64.binary.k8s.io";

/// The kinds of messages.
pub(crate) const TEXT_FRAME: u8 = 0x81;
pub(crate) const BINARY_FRAME: u8 = 0x82;
/// The last frame: closed as intended (1000).
const CLOSE_FRAME: [u8; 4] = [0x88, 0x02, 0x03, 0xe8];

/// Whether the client asks for a WebSocket.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or("");
    upgrade.eq_ignore_ascii_case("websocket")
}

/// Switches protocols and sends the log as messages until it ends or the client leaves.
pub(super) fn answer(
    call: &Call,
    client: OnUpgrade,
    log: Incoming,
) -> Result<Response<Body>, Status> {
    let protocol = protocol(&call.headers)?;
    let base64 = protocol == Some(BASE64);
    let pieces = log.into_data_stream().map(move |piece| {
        let piece = piece.map_err(std::io::Error::other)?;
        Ok(if base64 {
            (TEXT_FRAME, Bytes::from(STANDARD.encode(piece)))
        } else {
            (BINARY_FRAME, piece)
        })
    });
    switch(call, client, protocol.map(HeaderValue::from_static), pieces)
}

/// Switches protocols and sends messages (their kind and what is in them) until they end or the
/// client leaves.
pub(crate) fn switch(
    call: &Call,
    client: OnUpgrade,
    protocol: Option<HeaderValue>,
    messages: impl Stream<Item = std::io::Result<(u8, Bytes)>> + Send + 'static,
) -> Result<Response<Body>, Status> {
    let headers = &call.headers;
    check_origin(headers)?;
    let version = headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes);
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let (Some(b"13"), Some(key)) = (version, key) else {
        return Err(Status::bad_request("the request for a WebSocket is not of version 13"));
    };
    let (mut response, upgraded) = upgraded::switching(HeaderMap::new());
    let own = response.headers_mut();
    own.insert(UPGRADE, HeaderValue::from_static("websocket"));
    own.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accepted = HeaderValue::from_str(&accept_key(key)).map_err(Status::internal)?;
    own.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    if let Some(protocol) = protocol {
        own.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let stop = call.core.stop.clone();
    call.core.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            sent = send(client, messages) => {
                if let Err(error) = sent {
                    tracing::debug!(%error, "what goes over a WebSocket broke off");
                }
            }
        }
        drop(upgraded);
    });
    Ok(response)
}

/// A page of another place may not use the certificate that a browser shows by itself; whoever
/// brings a token of its own may come from anywhere.
fn check_origin(headers: &HeaderMap) -> Result<(), Status> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let Some(origin) = text(ORIGIN) else { return Ok(()) };
    let protocols = text(SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    let has_token = headers.contains_key(AUTHORIZATION)
        || protocols.split(',').any(|name| name.trim().starts_with(TOKEN_PROTOCOL));
    let host = origin.split_once("://").map(|(_, host)| host);
    if has_token || (host.is_some() && host == text(HOST)) {
        return Ok(());
    }
    let message = format!("WebSockets are not opened for pages of {origin:?}");
    Err(Status::forbidden_text("", "", "", message))
}

/// The first of the client's protocols that there is; none when it names none.
fn protocol(headers: &HeaderMap) -> Result<Option<&'static str>, Status> {
    let mut offered = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .peekable();
    if offered.peek().is_none() {
        return Ok(None);
    }
    let known = |name: &str| [BINARY, BASE64].into_iter().find(|known| *known == name);
    let found = offered.find_map(known);
    found.map(Some).ok_or_else(|| {
        Status::bad_request(format!("logs over a WebSocket are {BINARY} or {BASE64}"))
    })
}

fn accept_key(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(KEY_SUFFIX.as_bytes());
    STANDARD.encode(context.finish())
}

async fn send(
    client: OnUpgrade,
    messages: impl Stream<Item = std::io::Result<(u8, Bytes)>>,
) -> std::io::Result<()> {
    let upgraded = client.await.map_err(std::io::Error::other)?;
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
    let mut messages = std::pin::pin!(messages);
    let sending = async {
        while let Some(next) = messages.next().await {
            let (kind, piece) = next?;
            if !piece.is_empty() {
                message(&mut writer, kind, &piece).await?;
            }
        }
        writer.write_all(&CLOSE_FRAME).await?;
        writer.shutdown().await
    };
    // Whatever the client says, it only counts that it is there.
    let leaving = async {
        let mut ignored = [0; 512];
        while reader.read(&mut ignored).await.is_ok_and(|count| count > 0) {}
    };
    tokio::select! {
        sent = sending => sent,
        () = leaving => Ok(()),
    }
}

/// One unfragmented, unmasked message, as servers send them.
async fn message(
    writer: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    payload: &[u8],
) -> std::io::Result<()> {
    let mut head = vec![kind];
    match payload.len() {
        length @ 0..126 => head.push(u8::try_from(length).unwrap_or(0)),
        length => match u16::try_from(length) {
            Ok(length) => {
                head.push(126);
                head.extend_from_slice(&length.to_be_bytes());
            }
            Err(_) => {
                head.push(127);
                head.extend_from_slice(&u64::try_from(length).unwrap_or(0).to_be_bytes());
            }
        },
    }
    writer.write_all(&head).await?;
    writer.write_all(payload).await?;
    writer.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn the_key_is_answered_as_the_rfc_says() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn lengths_are_written_in_three_ways() {
        for (length, head) in [
            (5, vec![BINARY_FRAME, 5]),
            (300, vec![BINARY_FRAME, 126, 1, 44]),
            (70_000, vec![BINARY_FRAME, 127, 0, 0, 0, 0, 0, 1, 17, 112]),
        ] {
            let mut out = Vec::new();
            message(&mut out, BINARY_FRAME, &vec![7; length]).await.unwrap();
            assert_eq!(out[..head.len()], head);
            assert_eq!(out.len(), head.len() + length);
        }
    }

    #[test]
    fn pages_of_other_places_need_a_token() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:6443"));
        assert!(check_origin(&headers).is_ok());
        for (origin, is_fine) in
            [("https://127.0.0.1:6443", true), ("https://evil.example", false), ("null", false)]
        {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(check_origin(&headers).is_ok(), is_fine, "{origin}");
        }
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(check_origin(&headers).is_ok());
    }

    #[test]
    fn a_protocol_that_there_is_not_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(protocol(&headers).unwrap(), None);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v9, binary.k8s.io"));
        assert_eq!(protocol(&headers).unwrap(), Some(BINARY));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("v9"));
        assert!(protocol(&headers).is_err());
    }
}
