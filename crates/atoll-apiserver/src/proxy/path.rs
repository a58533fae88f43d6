//! Paths of proxied requests: what follows `proxy`, and back.

use http::header::{HeaderValue, LOCATION};
use http::{Response, StatusCode, Uri};

use crate::body::Body;
use crate::status::Status;

/// What follows `proxy` in a path, with its leading slash; empty when nothing does, not even
/// a slash. `rest` is that part as it was read, `path` the whole path as it came.
pub(super) fn rest(rest: &str, path: &str) -> String {
    let mut found = String::new();
    if !rest.is_empty() {
        found.push('/');
        found.push_str(rest.trim_start_matches('/'));
    }
    if path.ends_with('/') && !found.ends_with('/') {
        found.push('/');
    }
    found
}

/// The path up to and with `proxy`.
pub(super) fn prefix(path: &str, rest: &str) -> String {
    let path = crate::request::percent_decode(path, false);
    path.strip_suffix(rest).unwrap_or(&path).to_owned()
}

/// A page's relative links need a slash at its end.
pub(super) fn to_slash(uri: &Uri) -> Result<Response<Body>, Status> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let target = format!("{}/{query}", uri.path());
    let target = HeaderValue::from_str(&target).map_err(Status::internal)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(LOCATION, target);
    Ok(response)
}

/// As Go escapes a path.
pub(super) fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A redirect of the server behind, as the client must follow it: one to the server's own
/// address leads through the proxy, others stay.
pub(super) fn relocate(target: &str, authority: &str, prefix: &str) -> String {
    let path = match target.split_once("://") {
        Some((_, after)) => {
            let (host, path) = after.find('/').map_or((after, ""), |at| after.split_at(at));
            if host != authority {
                return target.to_owned();
            }
            path
        }
        None => target,
    };
    if target.starts_with("//") || !path.starts_with('/') && !path.is_empty() {
        return target.to_owned();
    }
    if path.starts_with(prefix) {
        return path.to_owned();
    }
    format!("{prefix}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/p/proxy";

    #[test]
    fn what_follows_keeps_its_slashes() {
        assert_eq!(rest("", PREFIX), "");
        assert_eq!(rest("", &format!("{PREFIX}/")), "/");
        assert_eq!(rest("a/b", &format!("{PREFIX}/a/b")), "/a/b");
        assert_eq!(rest("a/b", &format!("{PREFIX}/a/b/")), "/a/b/");
        assert_eq!(prefix(&format!("{PREFIX}/a%20b"), "/a b"), PREFIX);
    }

    #[test]
    fn redirects_of_the_server_lead_through_the_proxy() {
        let to = |target| relocate(target, "10.0.0.1:80", PREFIX);
        assert_eq!(to("/login?x=1"), format!("{PREFIX}/login?x=1"));
        assert_eq!(to("http://10.0.0.1:80/login"), format!("{PREFIX}/login"));
        assert_eq!(to("https://example.com/login"), "https://example.com/login");
        assert_eq!(to("next"), "next");
        assert_eq!(to("//example.com/x"), "//example.com/x");
    }

    #[test]
    fn a_path_is_escaped_as_go_does() {
        assert_eq!(encode("/a b/ü?#%"), "/a%20b/%C3%BC%3F%23%25");
        assert_eq!(encode("/a;b=c,d:e@f+g$h&i"), "/a;b=c,d:e@f+g$h&i");
    }
}
