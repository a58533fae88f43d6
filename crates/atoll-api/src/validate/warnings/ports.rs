//! Ports of a pod that are in each other's way.

use std::collections::HashMap;

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Path, quote};

/// `containers` are those of all kinds, each with its place.
pub(super) fn warn(containers: &[(Path, &Value)], warnings: &mut Vec<String>) {
    let mut same: HashMap<(i64, &str), Vec<(Path, &Value)>> = HashMap::new();
    for (at, port) in all(containers) {
        if !port.text("hostIP").is_empty() && host_port(port) == 0 {
            warnings.push(format!("{at}: hostIP set without hostPort: {}", shown(port)));
        }
        let key = (port.int("containerPort").unwrap_or(0), port.text("protocol"));
        let others = same.entry(key).or_default();
        for (other_at, other) in others.iter() {
            if let Some(what) = clash(port, other) {
                warnings.push(format!("{at}: {what} port definition with {other_at}"));
            }
        }
        others.push((at, port));
    }
    names(containers, warnings);
}

/// What two definitions of the same port and protocol are to each other.
fn clash(port: &Value, other: &Value) -> Option<&'static str> {
    let (host, other_host) = (host_port(port), host_port(other));
    let (ip, other_ip) = (port.text("hostIP"), other.text("hostIP"));
    if ip == other_ip && host == other_host {
        Some("duplicate")
    } else if host == 0 || other_host == 0 {
        Some("overlapping")
    } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn names(containers: &[(Path, &Value)], warnings: &mut Vec<String>) {
    let mut seen: HashMap<&str, Path> = HashMap::new();
    for (at, port) in all(containers) {
        let name = port.text("name");
        if name.is_empty() {
            continue;
        }
        match seen.get(name) {
            Some(other) => warnings.push(format!(
                "{at}: duplicate port name {} with {other}, services and probes that select ports \
                 by name will use {other}",
                quote(name)
            )),
            None => _ = seen.insert(name, at),
        }
    }
}

fn all<'a>(containers: &[(Path, &'a Value)]) -> Vec<(Path, &'a Value)> {
    let ports = containers.iter().flat_map(|(at, container)| {
        let at = at.child("ports");
        container
            .items("ports")
            .iter()
            .enumerate()
            .map(move |(index, port)| (at.index(index), port))
    });
    ports.collect()
}

fn host_port(port: &Value) -> i64 {
    port.int("hostPort").unwrap_or(0)
}

/// As Go prints the struct.
fn shown(port: &Value) -> String {
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        port.text("name"),
        host_port(port),
        port.int("containerPort").unwrap_or(0),
        port.text("protocol"),
        port.text("hostIP")
    )
}
