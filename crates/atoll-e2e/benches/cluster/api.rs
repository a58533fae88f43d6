//! What the API costs: a lone `atoll server` over TLS, HTTP/1.1 connections used again, a bearer
//! token, RBAC, every write on disk before its answer. CPU is that of the server's process.

mod client;
mod server;
pub mod watches;

use crate::{figure::Figure, processes::Process};
use client::{Client, Load};
use http_body_util::BodyExt as _;
use serde_json::json;
use server::Server;
use std::time::{Duration, Instant};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// How many requests wait at once, as the peers' figures were taken.
const AT_ONCE: usize = 16;
const GETS: usize = 6_000;
const CREATES: usize = 3_300;
const LISTS: usize = 40;
/// Bytes that each ConfigMap holds.
const VALUE: usize = 1_000;
const WATCHED: usize = 200;
/// Work of the start is over by then.
const SETTLE: Duration = Duration::from_secs(3);

pub fn run(runs: usize) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut all = Figures::new();
    for _ in 0..runs {
        runtime.block_on(once(&mut all));
    }
    all.into_vec()
}

struct Figures {
    start: Figure,
    start_cpu: Figure,
    fresh: Figure,
    get: Figure,
    create: Figure,
    full: Figure,
    list: Figure,
    list_cached: Figure,
    list_page: Figure,
    watch: Figure,
    watch_p99: Figure,
}

impl Figures {
    fn new() -> Self {
        let resident = "`atoll server`, resident";
        Self {
            start: Figure::new("`atoll server` until `/readyz` says yes", "s", "0.5 s"),
            start_cpu: Figure::new("the same, CPU", "CPU-s", "0.3 CPU-s"),
            fresh: Figure::new(&format!("{resident}, fresh"), "MB", "60 MB"),
            get: Figure::new("GET of a pod, 16 at once", "CPU-ms", "0.18 CPU-ms"),
            create: Figure::new("CREATE of a ConfigMap, 16 at once", "CPU-ms", "0.55 CPU-ms"),
            full: Figure::new(&format!("{resident}, with 3,300 ConfigMaps"), "MB", "100 MB"),
            list: Figure::new("LIST of 3,300 ConfigMaps, consistent", "CPU-ms", "8 CPU-ms"),
            list_cached: Figure::new("the same with `resourceVersion=0`", "CPU-ms", ""),
            list_page: Figure::new("a page of 500 of them", "CPU-ms", ""),
            watch: Figure::new("create to the watch's event, p50 of 200", "ms", "3 ms"),
            watch_p99: Figure::new("the same, p99", "ms", ""),
        }
    }

    fn into_vec(self) -> Vec<Figure> {
        let Self {
            start, start_cpu, fresh, get, create, full, list, list_cached, list_page, ..
        } = self;
        let (watch, last) = (self.watch, self.watch_p99);
        vec![start, start_cpu, fresh, get, create, full, list, list_cached, list_page, watch, last]
    }
}

async fn once(all: &mut Figures) {
    let begun = Instant::now();
    let server = Server::start().await;
    all.start.add(begun.elapsed().as_secs_f64());
    all.start_cpu.add(server.process().cpu_s());
    tokio::time::sleep(SETTLE).await;
    all.fresh.add(server.resident_mb());
    let (token, tls) = server.trusted().await;
    let client = Client { port: server.port, token, tls };
    client.load(1, 1, |_| ("POST", PODS.to_owned(), pod())).await;
    let process = server.process();
    all.get.add(cost(&process, &client, (AT_ONCE, GETS), |_| get(&format!("{PODS}/one"))).await);
    all.create.add(cost(&process, &client, (AT_ONCE, CREATES), config_map).await);
    all.full.add(server.resident_mb());
    let lists = (2, LISTS);
    all.list.add(cost(&process, &client, lists, |_| get(CONFIG_MAPS)).await);
    let cached = |_| get(&format!("{CONFIG_MAPS}?resourceVersion=0"));
    all.list_cached.add(cost(&process, &client, lists, cached).await);
    let page = |_| get(&format!("{CONFIG_MAPS}?limit=500"));
    all.list_page.add(cost(&process, &client, lists, page).await);
    let mut seen = seen(&client).await;
    seen.sort_unstable();
    all.watch.add(milliseconds(seen[seen.len() / 2]));
    all.watch_p99.add(milliseconds(seen[seen.len() * 99 / 100]));
}

/// Milliseconds of the server's processor time for each request.
async fn cost(
    process: &Process,
    client: &Client,
    (at_once, count): (usize, usize),
    load: Load,
) -> f64 {
    let before = process.cpu_s();
    client.load(at_once, count, load).await;
    (process.cpu_s() - before) * 1e3 / count as f64
}

/// How long after its request a new object is seen by somebody who watches.
async fn seen(client: &Client) -> Vec<Duration> {
    let mut watcher = client.http1().await;
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", revision(client).await);
    let answer = watcher.send_request(client.request("GET", &path, Vec::new())).await.unwrap();
    let mut events = answer.into_body();
    let mut writer = client.http1().await;
    let mut took = Vec::new();
    for number in 0..WATCHED {
        let (method, path, body) = config_map(CREATES + number);
        let request = client.request(method, &path, body);
        let begun = Instant::now();
        let write = writer.send_request(request);
        let event = async {
            let frame = events.frame().await.unwrap().unwrap();
            assert!(frame.into_data().unwrap().ends_with(b"\n"));
            begun.elapsed()
        };
        let (written, event) = tokio::join!(write, event);
        client::read(written.unwrap()).await;
        took.push(event);
        writer.ready().await.unwrap();
    }
    took
}

/// The revision of the collection now.
async fn revision(client: &Client) -> String {
    let mut sender = client.http1().await;
    let request = client.request("GET", &format!("{CONFIG_MAPS}?limit=1"), Vec::new());
    let body = client::read(sender.send_request(request).await.unwrap()).await;
    let list: serde_json::Value = serde_json::from_slice(&body).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn get(path: &str) -> (&'static str, String, Vec<u8>) {
    ("GET", path.to_owned(), Vec::new())
}

fn pod() -> Vec<u8> {
    let containers = json!([{"name": "one", "image": "docker.io/library/one:1"}]);
    let pod = json!({"metadata": {"name": "one"}, "spec": {"containers": containers}});
    serde_json::to_vec(&pod).unwrap()
}

fn config_map(number: usize) -> (&'static str, String, Vec<u8>) {
    let value = "x".repeat(VALUE);
    let object = json!({"metadata": {"name": format!("map-{number}")}, "data": {"key": value}});
    ("POST", CONFIG_MAPS.to_owned(), serde_json::to_vec(&object).unwrap())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
