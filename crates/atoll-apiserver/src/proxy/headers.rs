//! Headers of a proxied request and its answer.

use http::Uri;
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};

use crate::hop_by_hop;

/// The client's headers without what is for this server alone: who the client is, whom it
/// speaks for, how this connection is kept.
pub(super) fn forwarded(headers: &HeaderMap, uri: &Uri, authority: &str) -> HeaderMap {
    let mut forwarded = headers.clone();
    hop_by_hop::strip(&mut forwarded);
    forwarded.remove(AUTHORIZATION);
    hop_by_hop::strip_claims(&mut forwarded, &["impersonate-"]);
    // HTTP/2 has the name in the URL.
    if !forwarded.contains_key(HOST) {
        let named = uri.authority().map_or(authority, |own| own.as_str());
        if let Ok(value) = HeaderValue::from_str(named) {
            forwarded.insert(HOST, value);
        }
    }
    forwarded
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
    use http::HeaderName;

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
