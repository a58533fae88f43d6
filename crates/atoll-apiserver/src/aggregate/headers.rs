//! What a request carries to a server behind this one: who asks, in the words of an
//! authenticating proxy.

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};

use crate::hop_by_hop;
use crate::user::UserInfo;

pub(super) const USER: HeaderName = HeaderName::from_static("x-remote-user");
pub(super) const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const UID: HeaderName = HeaderName::from_static("x-remote-uid");
const EXTRA_PREFIX: &str = "x-remote-extra-";

/// The client's headers without what it proved itself with, and without any claim of its own to
/// be somebody; then who it is.
pub(super) fn forwarded(
    headers: &HeaderMap,
    user: &UserInfo,
    authority: &str,
    remote: Option<std::net::SocketAddr>,
) -> HeaderMap {
    let upgrade = headers.get(UPGRADE).cloned();
    let mut forwarded = headers.clone();
    hop_by_hop::strip(&mut forwarded);
    forwarded.remove(AUTHORIZATION);
    hop_by_hop::strip_claims(&mut forwarded, &["impersonate-", "x-remote-"]);
    if let Ok(authority) = HeaderValue::from_str(authority) {
        forwarded.insert(HOST, authority);
    }
    if let Some(upgrade) = upgrade {
        forwarded.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        forwarded.insert(UPGRADE, upgrade);
    }
    if let Some(remote) = remote {
        let name = "x-forwarded-for";
        let before = forwarded.get(name).and_then(|value| value.to_str().ok());
        let chain = match before {
            Some(before) => format!("{before}, {}", remote.ip()),
            None => remote.ip().to_string(),
        };
        if let Ok(chain) = HeaderValue::from_str(&chain) {
            forwarded.insert(name, chain);
        }
    }
    identify(&mut forwarded, user);
    forwarded
}

/// Says who asks.
pub(super) fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    if let Some(name) = value(&user.name) {
        headers.insert(USER, name);
    }
    if let Some(uid) = value(&user.uid).filter(|_| !user.uid.is_empty()) {
        headers.insert(UID, uid);
    }
    for group in user.groups.iter().filter_map(|group| value(group)) {
        headers.append(GROUP, group);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::try_from(format!("{EXTRA_PREFIX}{}", escape(key)));
        let Ok(name) = name else { continue };
        for one in values.iter().filter_map(|one| value(one)) {
            headers.append(name.clone(), one);
        }
    }
}

/// What cannot stand in a header's name, and `%`, as `%41`.
fn escape(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_says_himself_who_he_is() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("x-remote-user", "root"),
            ("x-remote-group", "system:masters"),
            ("x-remote-extra-a", "b"),
            ("impersonate-user", "root"),
            ("accept", "application/json"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut user = UserInfo::authenticated("jane", ["devs"]);
        user.extra.insert("example.com/a".to_owned(), vec!["1".to_owned()]);
        let sent = forwarded(&headers, &user, "s.n.svc:443", None);
        let all = |name: &str| -> Vec<&str> {
            sent.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
        };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-group"), ["devs", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fa"), ["1"]);
        assert!(!sent.contains_key("x-remote-extra-a") && !sent.contains_key(AUTHORIZATION));
        assert!(!sent.contains_key("impersonate-user") && sent.contains_key("accept"));
    }
}
