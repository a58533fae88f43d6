//! Paths of proxied requests: what follows `proxy`, and back.

use http::header::{HeaderValue, LOCATION};
use http::{Response, StatusCode, Uri};

use crate::body::Body;
use crate::request::RequestInfo;
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

/// The path up to and with `proxy`, as Go escapes it. It is made of what the path was read as,
/// so that nothing of what follows `proxy` gets into the links of pages.
pub(super) fn prefix(asked: &RequestInfo) -> String {
    let mut parts = if asked.group.is_empty() { vec!["api"] } else { vec!["apis", &*asked.group] };
    parts.push(&asked.version);
    if asked.nested {
        parts.extend(["namespaces", &*asked.namespace]);
    }
    parts.extend([&*asked.resource, &*asked.name, &*asked.subresource]);
    encode(&format!("/{}", parts.join("/")))
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

/// Where an answer comes from, and how it came to be asked for.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// The server behind, as this one reached it.
    pub(super) authority: String,
    /// The server that the client asked, by its name for it.
    pub(super) asked: String,
    /// The path up to and with `proxy`.
    pub(super) prefix: String,
}

impl Way {
    /// Where a link or a redirect of the server behind leads instead: one to that server goes
    /// through the proxy. None: it stays as it is, being relative or to somebody else.
    pub(super) fn relocate(&self, target: &str) -> Option<String> {
        let (host, path) = split(target);
        // By the client's own name for the server the link may be followed as it is.
        let kept = match host {
            Some((_, host)) if host == self.authority => "",
            Some((before, host)) if host == self.asked => &target[..before.len() + host.len()],
            Some(_) => return None,
            None => "",
        };
        let is_whole = host.is_some() && path.is_empty();
        if !path.starts_with('/') && !is_whole {
            return None;
        }
        let within = path.strip_prefix(self.prefix.as_str());
        if within.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return Some(format!("{kept}{path}"));
        }
        Some(format!("{kept}{}{path}", self.prefix))
    }
}

/// The host of a URL, with what stands before it, and what follows.
fn split(target: &str) -> (Option<(&str, &str)>, &str) {
    let scheme = target.find("//").map_or("", |at| &target[..at]);
    let named = scheme.strip_suffix(':').is_some_and(|name| {
        name.starts_with(|first: char| first.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    });
    if !(named || target.starts_with("//")) {
        return (None, target);
    }
    let (before, after) = target.split_at(scheme.len() + 2);
    let (host, path) = after.split_at(after.find(['/', '?', '#']).unwrap_or(after.len()));
    (Some((before, host)), path)
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
    }

    #[test]
    fn nothing_that_follows_gets_into_the_prefix() {
        let target = |path: &str| match crate::request::target(
            &http::Method::GET,
            path,
            &crate::query::Query::default(),
        ) {
            crate::request::Target::Resource(info) => prefix(&info),
            crate::request::Target::Plain => panic!("{path} is a resource's"),
        };
        let hostile = "%22%3E%3Cscript%3Ealert(1)%3C/script%3E";
        for rest in ["", "/", "/a%20b", "/docs//", "/x%2F", &format!("/{hostile}//")] {
            assert_eq!(target(&format!("{PREFIX}{rest}")), PREFIX, "{rest}");
        }
        let odd = "/api/v1/namespaces/a/services/%22%3E:80/proxy/x";
        assert_eq!(target(odd), "/api/v1/namespaces/a/services/%22%3E:80/proxy");
    }

    #[test]
    fn what_leads_to_the_server_leads_through_the_proxy() {
        let way = Way {
            authority: "10.0.0.1:80".to_owned(),
            asked: "localhost:8001".to_owned(),
            prefix: PREFIX.to_owned(),
        };
        let to = |target| way.relocate(target);
        let near = format!("{PREFIX}2/x");
        for path in ["/login?x=1", "/", "/a?next=http://other/x", &near] {
            assert_eq!(to(path), Some(format!("{PREFIX}{path}")));
        }
        assert_eq!(to("http://10.0.0.1:80/login"), Some(format!("{PREFIX}/login")));
        assert_eq!(to("//10.0.0.1:80"), Some(PREFIX.to_owned()));
        assert_eq!(
            to("http://localhost:8001/login"),
            Some(format!("http://localhost:8001{PREFIX}/login"))
        );
        let within = format!("{PREFIX}/login");
        assert_eq!(to(&within), Some(within.clone()));
        for other in [
            "https://example.com/login",
            "//example.com/x",
            "next",
            "",
            "?a",
            "#a",
            "mailto:/x",
            "a//b",
        ] {
            assert_eq!(to(other), None, "{other}");
        }
    }

    #[test]
    fn a_path_is_escaped_as_go_does() {
        assert_eq!(encode("/a b/ü?#%"), "/a%20b/%C3%BC%3F%23%25");
        assert_eq!(encode("/a;b=c,d:e@f+g$h&i"), "/a;b=c,d:e@f+g$h&i");
    }
}
