//! What a webhook costs a create, beyond the webhook's own time.
//!
//! `cargo run --release -p atoll-apiserver --example hooks [creates]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a measurement that cannot go on panics; the client is that of the tests"
)]

#[path = "../tests/api/client.rs"]
mod client;
#[path = "../tests/outside/hooked.rs"]
mod hooked;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use client::{Api, CONFIG_MAPS, config_map};
use hooked::{Hook, patched};

const CREATES: usize = 1000;

#[tokio::main]
async fn main() {
    let creates = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(CREATES);
    let api = Api::start().await;
    let without = measure(&api, "a", creates).await;
    let own = Arc::new(Mutex::new(Vec::new()));
    let took = own.clone();
    let hook = Hook::start(move |_| {
        let started = Instant::now();
        let said = patched(&json!([{"op": "add", "path": "/data/b", "value": "2"}]));
        took.lock().unwrap().push(started.elapsed());
        said
    })
    .await;
    let webhook = hook.webhook("hook.example.com", &["CREATE"], "configmaps");
    let configuration = json!({"metadata": {"name": "m"}, "webhooks": [webhook]});
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    api.create(path, &configuration).await.ok();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let with = measure(&api, "b", creates).await;
    let own = middle(std::mem::take(&mut *own.lock().unwrap()));
    println!("create without a webhook: p50 {without:?}");
    println!("create through one:       p50 {with:?}; its own work {own:?}");
    println!("the difference:           {:?}", with.saturating_sub(without + own));
    api.shutdown().await;
}

async fn measure(api: &Api, prefix: &str, creates: usize) -> Duration {
    let mut times = Vec::with_capacity(creates);
    for number in 0..creates {
        let object = config_map(&format!("{prefix}{number}"));
        let started = Instant::now();
        api.create(CONFIG_MAPS, &object).await.ok();
        times.push(started.elapsed());
    }
    middle(times)
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
