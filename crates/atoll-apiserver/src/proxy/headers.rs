//! Headers of a proxied request and its answer.

use http::Uri;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Those that are between two ends of one connection.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The client's headers without what is for this server alone: who the client is, whom it
/// speaks for, how this connection is kept.
pub(super) fn forwarded(headers: &HeaderMap, uri: &Uri, authority: &str) -> HeaderMap {
    let mut forwarded = headers.clone();
    strip_connection(&mut forwarded);
    forwarded.remove(AUTHORIZATION);
    let secret: Vec<HeaderName> = forwarded
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in secret {
        forwarded.remove(name);
    }
    // HTTP/2 has the name in the URL.
    if !forwarded.contains_key(HOST) {
        let named = uri.authority().map_or(authority, |own| own.as_str());
        if let Ok(value) = HeaderValue::from_str(named) {
            forwarded.insert(HOST, value);
        }
    }
    forwarded
}

/// Takes out what is between two ends of one connection, and what `Connection` names.
pub(super) fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Puts back what makes an upgrade.
pub(super) fn keep_upgrade(headers: &HeaderMap, request: &mut HeaderMap) {
    for name in [CONNECTION, UPGRADE] {
        for value in headers.get_all(&name) {
            request.append(name.clone(), value.clone());
        }
    }
    let protocols: Vec<HeaderValue> =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(without_token).collect();
    request.remove(SEC_WEBSOCKET_PROTOCOL);
    for value in protocols {
        request.append(SEC_WEBSOCKET_PROTOCOL, value);
    }
}

fn without_token(value: &HeaderValue) -> Option<HeaderValue> {
    crate::stream::without_token(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("impersonate-extra-a", "b"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("cookie", "kept"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let uri: Uri = "https://server:6443/x".parse().unwrap();
        let forwarded = forwarded(&headers, &uri, "10.0.0.1:80");
        let names: Vec<&str> = forwarded.keys().map(HeaderName::as_str).collect();
        assert_eq!(forwarded["host"], "server:6443");
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(forwarded["cookie"], "kept");
    }
}
