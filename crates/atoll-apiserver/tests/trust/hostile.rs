//! What hostile clients send, over real sockets: each is answered clearly, soon, and without
//! much memory, and the next client is served as if nothing had been.

mod bodies;
mod paths;
mod patterns;
mod requests;
mod slow;
mod streams;

use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Caller, Cluster};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Programs of tests are not optimised.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// Memory that one hostile request may take for a moment, beside what the test itself holds.
const PEAK_BYTES_MAX: u64 = 256 << 20;

/// A value of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Bounds what happens until it is asked: time, and memory at the highest.
struct Bounds {
    what: String,
    begun: Instant,
    before: u64,
}

impl Bounds {
    fn begin(what: impl Into<String>) -> Self {
        Self { what: what.into(), begun: Instant::now(), before: memory("VmHWM") }
    }

    fn hold(&self) {
        let (took, grown) = (self.begun.elapsed(), memory("VmHWM").saturating_sub(self.before));
        println!("{}: {took:?}, {} MiB more at the highest", self.what, grown >> 20);
        assert!(took < ANSWERED_WITHIN, "{} took {took:?}", self.what);
        assert!(grown < PEAK_BYTES_MAX, "{} took {grown} bytes", self.what);
    }
}

/// Sends bytes as they are over TLS and reads until the other end is done or silent.
async fn raw(cluster: &Cluster, caller: &Caller, bytes: &[u8]) -> String {
    let mut stream = cluster.connect(caller, &[]).await.unwrap();
    // A server that has heard enough may close before all is said.
    drop(stream.write_all(bytes).await);
    drop(stream.flush().await);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    drop(tokio::time::timeout(Duration::from_secs(1), read).await);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The codes of the answers that stand in what came over a connection.
fn codes(answer: &str) -> Vec<u16> {
    let heads = answer.split("HTTP/1.1 ").skip(1);
    heads.filter_map(|head| head.get(..3)?.parse().ok()).collect()
}

/// The server goes on serving others.
async fn still_serves(cluster: &Cluster) {
    let bounds = Bounds::begin("the next client");
    let object = json!({"metadata": {"generateName": "next-"}});
    let admin = cluster.admin();
    assert_eq!(cluster.call(&admin, Method::POST, MAPS, &object).await.0, 201);
    assert_eq!(cluster.call(&admin, Method::GET, MAPS, &Value::Null).await.0, 200);
    bounds.hold();
}
