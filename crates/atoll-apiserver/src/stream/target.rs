//! Which kubelet, and which path there.

use atoll_api::access::Access as _;
use atoll_api::kinds;
use serde_json::Value;

use crate::call::Call;
use crate::query::Query;
use crate::status::Status;

/// A kubelet's address and the path of the request to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The node's address, as it stands in its certificate.
    pub(super) host: String,
    pub(super) authority: String,
    pub(super) path: String,
}

/// Upstream's port, for nodes that do not say theirs.
const KUBELET_PORT: i64 = 10_250;

impl Target {
    /// None for the log of a pod that no node has, which is empty; what needs a node is refused.
    pub(super) async fn find(call: &Call) -> Result<Option<Self>, Status> {
        let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
        let pod = stored.ok_or_else(|| call.not_found())?.object(&call.row)?;
        let path = path(call, &pod)?;
        let node = pod["spec"].text("nodeName");
        if node.is_empty() && call.subresource() == "log" {
            return Ok(None);
        }
        if node.is_empty() {
            return Err(Status::bad_request(format!(
                "pod {} does not have a host assigned",
                call.name()
            )));
        }
        let (host, port) = kubelet(call, node)?;
        let authority =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Ok(Some(Self { host, authority, path }))
    }
}

/// Host and port of a node's kubelet.
pub(crate) fn kubelet(call: &Call, name: &str) -> Result<(String, i64), Status> {
    let row = kinds::find("", "v1", "nodes").ok_or_else(Status::no_resource)?;
    let cached = call.core.registry.cache(row).and_then(|cache| cache.get("", name));
    let node = cached.ok_or_else(|| Status::not_found(row, name))?.object(row)?;
    let addresses = node["status"].items("addresses");
    let address = ["InternalIP", "ExternalIP", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|address| address.text("type") == *kind))
        .ok_or_else(|| {
            Status::server_error(format!(
                "no preferred addresses found; known addresses: [] (node {name} has not said where \
                 it is)"
            ))
        })?;
    let endpoint = &node["status"]["daemonEndpoints"]["kubeletEndpoint"];
    let port = endpoint.int("Port").filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
    Ok((address.text("address").to_owned(), port))
}

fn path(call: &Call, pod: &Value) -> Result<String, Status> {
    let (namespace, name) = (call.namespace(), call.name());
    let query = &call.query;
    Ok(match call.subresource() {
        "portforward" => with_query("portForward", &[namespace, name], &same(query, &["ports"])),
        "log" => {
            let container = container(call, pod)?;
            let wanted = [
                "follow",
                "previous",
                "sinceSeconds",
                "sinceTime",
                "timestamps",
                "tailLines",
                "limitBytes",
                "stream",
            ];
            with_query("containerLogs", &[namespace, name, &container], &same(query, &wanted))
        }
        part => {
            let container = container(call, pod)?;
            with_query(part, &[namespace, name, &container], &streams(query))
        }
    })
}

fn with_query(root: &str, parts: &[&str], query: &[(&str, &str)]) -> String {
    let mut path = format!("/{root}");
    for part in parts {
        path.push('/');
        path.push_str(&encode(part));
    }
    for (at, (key, value)) in query.iter().enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(&format!("{key}={}", encode(value)));
    }
    path
}

fn same<'a>(query: &'a Query, keys: &[&'static str]) -> Vec<(&'static str, &'a str)> {
    let mut pairs = Vec::new();
    for key in keys {
        let values = query.pairs().filter(|(own, _)| own == key);
        pairs.extend(values.map(|(_, value)| (*key, value)));
    }
    pairs
}

/// The kubelet has its own names for the streams.
fn streams(query: &Query) -> Vec<(&'static str, &str)> {
    let mut pairs = Vec::new();
    for (own, kubelet) in
        [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
    {
        if query.flag(own) {
            pairs.push((kubelet, "1"));
        }
    }
    pairs.extend(same(query, &["command"]));
    pairs
}

/// The container that the request names, or the only one there is.
fn container(call: &Call, pod: &Value) -> Result<String, Status> {
    let names = |field: &str| -> Vec<String> {
        let containers = pod["spec"].items(field).iter();
        containers.map(|container| container.text("name").to_owned()).collect()
    };
    let containers = names("containers");
    let inits = names("initContainers");
    let ephemeral = names("ephemeralContainers");
    let name = call.query.text("container");
    if name.is_empty() {
        return match containers.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Status::bad_request(format!("pod {} has no containers", call.name()))),
            many => Err(Status::bad_request(choose(call.name(), many, &inits))),
        };
    }
    if [&containers, &inits, &ephemeral].iter().any(|all| all.iter().any(|own| own == name)) {
        return Ok(name.to_owned());
    }
    Err(Status::bad_request(format!("container {name} is not valid for pod {}", call.name())))
}

fn choose(pod: &str, containers: &[String], inits: &[String]) -> String {
    let mut text = format!(
        "a container name must be specified for pod {pod}, choose one of: [{}]",
        containers.join(" ")
    );
    if !inits.is_empty() {
        text.push_str(&format!(" or one of the init containers: [{}]", inits.join(" ")));
    }
    text
}

/// Everything but letters, digits and `-._~` as `%41`.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_speaks_the_kubelets_language() {
        let query =
            Query::parse("stdout=true&stdin=true&tty=false&command=sh&command=-c&command=a%20b");
        let path = with_query("exec", &["ns", "p", "c"], &streams(&query));
        assert_eq!(path, "/exec/ns/p/c?input=1&output=1&command=sh&command=-c&command=a%20b");
    }

    #[test]
    fn logs_pass_their_options_on() {
        let query = Query::parse("container=c&follow=true&tailLines=5");
        let pairs = same(&query, &["follow", "tailLines"]);
        assert_eq!(
            with_query("containerLogs", &["n", "p", "c"], &pairs),
            "/containerLogs/n/p/c?follow=true&tailLines=5"
        );
    }
}
