//! Image names, by the rules of the container world: `[host[:port]/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

/// A parsed name with Docker's defaults filled in (`docker.io`, `library/`, `latest`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io`, `127.0.0.1:5000`.
    pub registry: String,
    /// `library/node`.
    pub repository: String,
    /// `None` only when a digest is given.
    pub tag: Option<String>,
    /// `sha256:<64 hex>`.
    pub digest: Option<String>,
}

/// The name breaks the rules. The text is upstream's; `reason` says more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: invalid reference format{detail}")]
pub struct InvalidReference {
    pub name: String,
    pub reason: &'static str,
    /// What upstream adds, if anything.
    detail: String,
}

/// Longest path of a name, as Docker's grammar has it.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

impl Reference {
    /// The host to talk to: `docker.io` is served by another name.
    #[must_use]
    pub fn registry_host(&self) -> &str {
        if self.registry == "docker.io" { "registry-1.docker.io" } else { &self.registry }
    }

    /// Registry and repository, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// What to ask the registry for: the digest when there is one.
    #[must_use]
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(name: &str) -> Result<Reference, InvalidReference> {
        let fail =
            |reason| InvalidReference { name: name.to_owned(), reason, detail: String::new() };
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    parse_digest(digest)
                        .ok_or_else(|| fail("its digest is not sha256: and 64 hex digits"))?,
                ),
            ),
            None => (name, None),
        };
        let (rest, tag) = split_tag(rest);
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(fail("its tag is not one"));
        }
        let (registry, path) = split_registry(rest);
        if !is_host(registry) {
            return Err(fail("its registry is no host name"));
        }
        let repository = if registry == "docker.io" && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if path.is_empty() {
            return Err(fail("it has no name"));
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            let detail = format!(": repository name ({repository}) must be lowercase");
            return Err(InvalidReference { detail, ..fail("its name has capital letters") });
        }
        if repository.len() > NAME_BYTES_MAX || !repository.split('/').all(is_component) {
            return Err(fail("its name has parts that are not allowed"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// A digest that this store can check: sha256 with 64 lower-case hex digits.
pub(crate) fn parse_digest(text: &str) -> Option<String> {
    let hex = text.strip_prefix("sha256:")?;
    let valid = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| text.to_owned())
}

fn split_tag(rest: &str) -> (&str, Option<&str>) {
    match rest.rsplit_once(':') {
        // A colon before the last slash belongs to the port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    }
}

fn split_registry(rest: &str) -> (&str, &str) {
    match rest.split_once('/') {
        Some((first, path))
            // A registry may have capital letters, a repository may not.
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            let canonical = matches!(first, "index.docker.io" | "registry-1.docker.io");
            (if canonical { "docker.io" } else { first }, path)
        }
        _ => ("docker.io", rest),
    }
}

fn is_host(host: &str) -> bool {
    let bare = if let Some(inner) = host.strip_prefix('[') {
        let Some((address, port)) = inner.split_once(']') else { return false };
        let port_valid =
            port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
        return address.parse::<std::net::Ipv6Addr>().is_ok() && port_valid;
    } else {
        match host.split_once(':') {
            Some((bare, port)) => {
                if port.parse::<u16>().is_err() {
                    return false;
                }
                bare
            }
            None => host,
        }
    };
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    bare.split('.').all(label)
}

/// `[a-z0-9]+` parts joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    let mut separator = String::new();
    for byte in component.chars() {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
            let valid = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !valid {
                return false;
            }
            separator.clear();
        } else {
            separator.push(byte);
        }
    }
    true
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first
        && tag.len() <= TAG_BYTES_MAX
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(name: &str) -> String {
        name.parse::<Reference>().map(|r| r.to_string()).unwrap_or_else(|e| e.reason.to_owned())
    }

    #[test]
    fn fills_in_dockers_defaults() {
        for (name, expected) in [
            ("node:18-alpine", "docker.io/library/node:18-alpine"),
            ("node", "docker.io/library/node:latest"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("localhost/a/b:1", "localhost/a/b:1"),
            ("atoll.local/hello:latest", "atoll.local/hello:latest"),
            ("[::1]:5000/a:2", "[::1]:5000/a:2"),
            ("index.docker.io/library/node", "docker.io/library/node:latest"),
        ] {
            assert_eq!(full(name), expected, "{name}");
        }
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let reference: Reference = format!("node@{digest}").parse().unwrap();
        assert_eq!((reference.tag, reference.digest), (None, Some(digest)));
    }

    #[test]
    fn says_what_is_wrong_in_upstreams_words() {
        let said = |name: &str| name.parse::<Reference>().unwrap_err().to_string();
        assert_eq!(said("a:"), r#"couldn't parse image name "a:": invalid reference format"#);
        assert_eq!(
            said("Node:18"),
            r#"couldn't parse image name "Node:18": invalid reference format: repository name (library/Node) must be lowercase"#
        );
        assert_eq!("REGISTRY/a".parse::<Reference>().unwrap().registry, "REGISTRY");
    }

    #[test]
    fn refuses_what_breaks_the_grammar() {
        for name in [
            "",
            ":",
            "Node",
            "a//b",
            "a/../b",
            "node:",
            "node:a b",
            "-a",
            "a-",
            "a...b",
            "a___b",
            "node@sha256:12",
            "node@md5:aa",
            "host:99999999/a",
            "ho$t.io/a",
            "/a",
            "a/",
        ] {
            assert!(name.parse::<Reference>().is_err(), "{name:?}");
        }
    }
}
