//! What a URL asks for: verb, resource, namespace, name.

use atoll_api::kinds::ResourceInfo;
use http::Method;

use crate::query::Query;

/// A request for a resource, in the words of RBAC.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    /// What follows the subresource: the path of a proxied request.
    pub rest: String,
    /// The resource stands below a namespace: `namespaces/a/…`.
    pub nested: bool,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Resource(RequestInfo),
    /// Health, discovery, OpenAPI, metrics and whatever is unknown.
    Plain,
}

/// Sorts a request by its method, path and query.
pub(crate) fn target(method: &Method, path: &str, query: &Query) -> Target {
    // As upstream: decoded first, so that an escaped slash is a slash and no part of a name.
    let path = percent_decode(path.trim_matches('/'), false);
    let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
    let (group, version) = match parts.next().as_deref() {
        Some("api") => (Some(String::new()), parts.next()),
        Some("apis") => (parts.next(), parts.next()),
        _ => (None, None),
    };
    let parts: Vec<String> = parts.collect();
    let (Some(group), Some(version), false) = (group, version, parts.is_empty()) else {
        return Target::Plain;
    };
    let mut request = RequestInfo { group, version, ..RequestInfo::default() };
    let watch_path = place(&mut request, &parts);
    request.verb = verb(method, &request, query, watch_path);
    if request.name.is_empty() && matches!(request.verb, "list" | "watch") {
        // Selecting one name is asking for it: a rule with resourceNames allows it.
        if let Some(name) = query.get("fieldSelector").and_then(single_name) {
            request.name = name;
        }
    }
    Target::Resource(request)
}

/// Fills in resource, namespace, name; says whether the path is of the old `watch/` form.
fn place(request: &mut RequestInfo, parts: &[String]) -> bool {
    let (watch_path, parts) = match parts {
        [first, rest @ ..] if first == "watch" && !rest.is_empty() => (true, rest),
        parts => (false, parts),
    };
    let rest: &[String] = match parts {
        [first, name] if first == "namespaces" => {
            request.namespace.clone_from(name);
            parts
        }
        [first, name, third, ..] if first == "namespaces" => {
            request.namespace.clone_from(name);
            if third == "status" || third == "finalize" {
                parts
            } else {
                request.nested = true;
                parts.get(2..).unwrap_or_default()
            }
        }
        parts => parts,
    };
    let mut rest = rest.iter();
    request.resource = rest.next().cloned().unwrap_or_default();
    request.name = rest.next().cloned().unwrap_or_default();
    request.subresource = rest.next().cloned().unwrap_or_default();
    request.rest = rest.map(String::as_str).collect::<Vec<_>>().join("/");
    watch_path
}

fn verb(method: &Method, request: &RequestInfo, query: &Query, watch_path: bool) -> &'static str {
    let collection = request.name.is_empty();
    match *method {
        Method::GET | Method::HEAD if watch_path => "watch",
        _ if watch_path => "",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD if collection => {
            if query.flag("watch") {
                "watch"
            } else {
                "list"
            }
        }
        Method::GET | Method::HEAD => "get",
        _ => "",
    }
}

/// The name in `metadata.name=x`, when that is a term of the selector.
fn single_name(selector: &str) -> Option<String> {
    selector.split(',').find_map(|term| {
        let (field, value) = term.split_once("==").or_else(|| term.split_once('='))?;
        let segment = !value.is_empty() && !matches!(value, "." | "..");
        let segment = segment && !value.contains(['/', '%', '\\']);
        (field == "metadata.name" && segment).then(|| value.to_owned())
    })
}

/// `%41` to `A`; with `plus` also `+` to a space. What is no valid UTF-8 is replaced.
pub(crate) fn percent_decode(text: &str, plus: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = bytes
            .get(at + 1..at + 3)
            .filter(|_| byte == b'%')
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(value) => {
                decoded.push(value);
                at += 3;
                continue;
            }
            None if plus && byte == b'+' => decoded.push(b' '),
            None => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

impl RequestInfo {
    /// Whether the request is about a collection, which may span all namespaces.
    pub fn is_collection(&self) -> bool {
        matches!(self.verb, "list" | "watch" | "deletecollection")
    }

    /// Whether the URL has the form that the row's scope asks for: a namespace where there must
    /// be one, and none where rights within a namespace must not count.
    pub fn fits(&self, row: &ResourceInfo) -> bool {
        if row.namespaced() {
            return !self.namespace.is_empty() || self.is_collection();
        }
        // The URL of a namespace names itself twice.
        let itself = row.group.is_empty() && row.resource == "namespaces" && !self.nested;
        self.namespace.is_empty() || itself
    }

    /// The namespace in which objects of the row are meant: empty for cluster-scoped rows,
    /// whose own URL may name one (`namespaces/x`).
    pub fn object_namespace(&self, row: &ResourceInfo) -> &str {
        if row.namespaced() { &self.namespace } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(method: Method, uri: &str) -> RequestInfo {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        match target(&method, path, &Query::parse(query)) {
            Target::Resource(request) => request,
            Target::Plain => panic!("{uri} is no resource"),
        }
    }

    #[test]
    fn reads_namespaced_objects_and_their_parts() {
        let request = resource(Method::GET, "/api/v1/namespaces/a/pods/p/log?follow=true");
        assert_eq!(request.verb, "get");
        assert_eq!((request.namespace.as_str(), request.name.as_str()), ("a", "p"));
        assert_eq!((request.resource.as_str(), request.subresource.as_str()), ("pods", "log"));
    }

    #[test]
    fn a_namespace_is_an_object_of_its_own() {
        let request = resource(Method::PUT, "/api/v1/namespaces/a/finalize");
        assert_eq!(request.verb, "update");
        assert_eq!(request.resource, "namespaces");
        assert_eq!((request.name.as_str(), request.subresource.as_str()), ("a", "finalize"));
        assert_eq!(request.namespace, "a");
    }

    #[test]
    fn a_collection_is_listed_watched_or_deleted() {
        let uri = "/apis/apps/v1/deployments?watch=1&fieldSelector=metadata.name%3Dx";
        let request = resource(Method::GET, uri);
        assert_eq!((request.verb, request.name.as_str()), ("watch", "x"));
        assert_eq!(resource(Method::GET, "/apis/apps/v1/deployments").verb, "list");
        let request = resource(Method::DELETE, "/api/v1/namespaces/a/pods");
        assert_eq!(request.verb, "deletecollection");
    }

    #[test]
    fn an_escaped_slash_is_a_slash_and_an_empty_part_is_kept() {
        let request = resource(Method::GET, "/api/v1/namespaces/a/configmaps/x%2Fstatus");
        assert_eq!((request.name.as_str(), request.subresource.as_str()), ("x", "status"));
        let request = resource(Method::GET, "/api/v1/namespaces/a%2Fsecrets/b");
        assert_eq!((request.resource.as_str(), request.name.as_str()), ("secrets", "b"));
        let request = resource(Method::GET, "/api/v1//pods");
        assert_eq!((request.resource.as_str(), request.name.as_str()), ("", "pods"));
        let request = resource(Method::GET, "/api/v1/namespaces//pods/x");
        assert!(!request.fits(atoll_api::kinds::find("", "v1", "pods").unwrap()));
    }

    #[test]
    fn rights_in_a_namespace_are_none_over_the_cluster() {
        let fits = |uri: &str| {
            let request = resource(Method::GET, uri);
            let row = atoll_api::kinds::find(&request.group, "v1", &request.resource).unwrap();
            request.fits(row)
        };
        for uri in ["/api/v1/nodes/n", "/api/v1/namespaces/a", "/api/v1/namespaces/a/status"] {
            assert!(fits(uri), "{uri}");
        }
        let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/a";
        for uri in [
            "/api/v1/namespaces/a/nodes".to_owned(),
            "/api/v1/namespaces/a/nodes/n".to_owned(),
            "/api/v1/namespaces/a/namespaces".to_owned(),
            "/api/v1/namespaces/a/namespaces/b".to_owned(),
            "/api/v1/namespaces/a/namespaces/a".to_owned(),
            format!("{base}/clusterroles"),
        ] {
            assert!(!fits(&uri), "{uri}");
        }
    }

    #[test]
    fn groups_and_versions_are_no_resources() {
        for path in ["/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/readyz", "/"] {
            assert_eq!(target(&Method::GET, path, &Query::parse("")), Target::Plain, "{path}");
        }
    }
}
