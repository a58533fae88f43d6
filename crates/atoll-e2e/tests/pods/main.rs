//! Pods by kubectl: what they start from, how they end, and what is seen of them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and prints what it measured"
)]

mod features;
mod generation;
mod lifecycle;
mod logs;
mod network;
mod resize;
mod streams;
mod surroundings;
mod survival;

use atoll_e2e::{Cluster, image::import_busybox, is_root};
use serde_json::json;
use std::time::Duration;

/// Whatever is awaited comes within this time, on a loaded machine too.
const HOUR_GLASS: Duration = Duration::from_secs(40);

/// One cluster for all: the pods run side by side while they are looked at in turn.
#[test]
fn pods_are_what_kubectl_expects_of_them() {
    if !is_root("pods") {
        return;
    }
    let mut cluster = Cluster::start(2);
    let host = tempfile::tempdir().unwrap();
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    let user = json!({"Cmd": ["sleep", "1000"], "User": "app", "StopSignal": "SIGUSR1"});
    import_busybox(&cluster, "test.local/user:1", user);
    let entry = json!({"Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"]});
    import_busybox(&cluster, "test.local/entry:1", entry);
    lifecycle::apply(&cluster, host.path());
    features::apply(&cluster, host.path());
    surroundings::apply(&cluster);
    resize::apply(&cluster);
    cluster.apply(include_str!("streams.yaml"));
    lifecycle::check(&cluster, host.path());
    surroundings::check(&cluster);
    features::check(&cluster, host.path());
    streams::check(&cluster, host.path());
    logs::check(&cluster);
    resize::check(&cluster);
    lifecycle::counts_on(&cluster);
    survival::check(&cluster);
    resize::stays(&cluster);
    survival::comes_back(&mut cluster);
}

/// What pods hear of each other, and what becomes of one that is changed again and again.
#[test]
fn pods_reach_each_other_as_kubectl_says() {
    if !is_root("network") {
        return;
    }
    let cluster = Cluster::start(2);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    network::apply(&cluster);
    network::check(&cluster);
    generation::check(&cluster);
}
