//! A large cluster in one process: the real store (with its `fdatasync`), API server and
//! scheduler, and simulated nodes that renew their Leases and report their pods through the API.
//!
//! `cargo run -p atoll --release --example scale -- DIR [--nodes N] [--pods N] [--busy]`
//!
//! It creates the nodes, keeps their Leases renewed every ten seconds from then on, creates the
//! pods, starts the scheduler and measures until the last is bound, lets every node report its
//! pods as running, and lists them all by page. With `--busy` nodes report while pods are
//! being scheduled. Everybody is an administrator, nobody uses TLS, one watch serves all
//! nodes: the figures are of store, API server and scheduler.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measuring tool, not part of the product"
)]

use atoll_apiserver::{
    Access, ApiServer, Config, LocalService, UserInfo, authn::AlwaysUser, authz::AlwaysAllow,
    config::Cidr,
};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::{StreamExt as _, stream};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use kube::Client;
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service as _;

/// Requests under way at once of whoever creates or reports.
const AT_ONCE: usize = 64;
/// How often a kubelet renews its Lease.
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// Owners that the pods are spread over.
const OWNERS: usize = 100;
/// Room for 32,768 nodes with a /24 each.
const POD_CIDR: Cidr = Cidr { address: Ipv4Addr::new(10, 128, 0, 0), prefix: 9 };
const PAGE: usize = 500;
const LIST_ROUNDS: usize = 5;
/// Bound pods that wait to be reported; the watch waits when there are more.
const REPORTS_MAX: usize = 1_024;

struct Arguments {
    dir: PathBuf,
    nodes: usize,
    pods: usize,
    busy: bool,
}

fn arguments() -> Arguments {
    let mut found = Arguments { dir: PathBuf::new(), nodes: 5_000, pods: 100_000, busy: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || words.next().and_then(|text| text.parse().ok()).unwrap();
        match word.as_str() {
            "--nodes" => found.nodes = number(),
            "--pods" => found.pods = number(),
            "--busy" => found.busy = true,
            _ => found.dir = word.into(),
        }
    }
    assert!(!found.dir.as_os_str().is_empty(), "usage: scale DIR [--nodes N] [--pods N] [--busy]");
    found
}

#[tokio::main]
async fn main() {
    let Arguments { dir, nodes, pods, busy } = arguments();
    let store = EmbeddedStore::open(StoreConfig { dir, ..StoreConfig::default() }).await.unwrap();
    let mut config = Config::new(store.keyspace(Keyspace::Cluster));
    config.pod_cidr = POD_CIDR;
    let server = ApiServer::start_with(config, |_, _| {
        let authenticator = Arc::new(AlwaysUser(admin()));
        Ok(Access { authenticator, authorizer: Arc::new(AlwaysAllow) })
    })
    .await
    .unwrap();
    let api = Api { service: server.local_service(admin()) };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    println!("| what | figure |\n|---|---|");
    let account = json!({ "metadata": { "name": "default" } });
    api.post("/api/v1/namespaces/default/serviceaccounts", &account).await;

    let begun = Instant::now();
    each(0..nodes, |index| api.node(index)).await;
    rate("nodes created, with status and Lease", nodes, begun);
    let late = Arc::new(AtomicUsize::new(0));
    tasks.spawn(renew(api.clone(), nodes, late.clone(), stop.clone()));
    memory("with the nodes");

    let begun = Instant::now();
    each(0..pods, |index| api.pod(index)).await;
    rate("pods created, Leases being renewed", pods, begun);
    memory("with the pods");

    let (reports, bound) = mpsc::channel(REPORTS_MAX);
    let watching = tasks.spawn(watch(api.clone(), pods, reports));
    let reporter = tasks.spawn(report(api.clone(), bound, busy));
    let cpu = cpu_s();
    let begun = Instant::now();
    let client = Client::new(server.local_service(admin()), "default");
    atoll_scheduler::start(&atoll_scheduler::Config { client }, &tasks, &stop);
    let (first, last) = watching.await.unwrap();
    println!(
        "| scheduler, from its start to the first binding | {:.1} s |",
        (first - begun).as_secs_f64()
    );
    let span = (last - first).as_secs_f64();
    println!("| pods bound, on disk, Leases being renewed | {:.0}/s |", pods as f64 / span);
    println!(
        "| the same, processor time of the process | {:.2} ms a pod |",
        (cpu_s() - cpu) * 1e3 / pods as f64
    );
    memory("with all bound");
    let begun = Instant::now();
    reporter.await.unwrap();
    if !busy {
        rate("pods reported as running", pods, begun);
    }
    memory("with all running");
    list(&api, pods).await;
    println!("| Leases renewed late, by more than a second | {} |", late.load(Ordering::Relaxed));
    spread(&api, nodes).await;
    memory("at the end");
    stop.cancel();
    tasks.close();
    server.shutdown().await;
    store.shutdown().await;
}

fn admin() -> UserInfo {
    UserInfo::authenticated("admin", ["system:masters"])
}

async fn each<F: Future<Output = ()>>(range: std::ops::Range<usize>, work: impl Fn(usize) -> F) {
    stream::iter(range).map(work).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

fn rate(what: &str, count: usize, begun: Instant) {
    println!("| {what} | {:.0}/s |", count as f64 / begun.elapsed().as_secs_f64());
}

/// Resident memory of the process, simulated nodes included, and its peak.
fn memory(when: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kb = |name: &str| -> f64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    println!(
        "| memory {when} (peak) | {:.0} ({:.0}) MB |",
        kb("VmRSS") / 1024.0,
        kb("VmHWM") / 1024.0
    );
}

fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|text| text.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[derive(Clone)]
struct Api {
    service: LocalService,
}

impl Api {
    async fn send(&self, method: Method, path: &str, kind: &str, body: String) -> Bytes {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = self.service.clone().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert!(head.status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
        bytes
    }

    async fn post(&self, path: &str, object: &Value) {
        self.send(Method::POST, path, "application/json", object.to_string()).await;
    }

    async fn node(&self, index: usize) {
        let name = name(index);
        let labels = json!({ "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" });
        let node = json!({ "metadata": { "name": name, "labels": labels } });
        self.post("/api/v1/nodes", &node).await;
        let status = json!({
            "spec": { "taints": null },
            "status": {
                "allocatable": { "cpu": "8", "memory": "32Gi", "pods": "110" },
                "capacity": { "cpu": "8", "memory": "32Gi", "pods": "110" },
                "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
            },
        });
        let merge = "application/merge-patch+json";
        let path = format!("/api/v1/nodes/{name}");
        self.send(Method::PATCH, &path, merge, json!({ "spec": status["spec"] }).to_string()).await;
        let part = json!({ "status": status["status"] }).to_string();
        self.send(Method::PATCH, &format!("{path}/status"), merge, part).await;
        self.post(LEASES, &lease(index, None)).await;
    }

    /// Renews a Lease; gives its new version. The first time the node has to ask for it.
    async fn renew(&self, index: usize, version: Option<String>) -> String {
        let path = format!("{LEASES}/{}", name(index));
        let json = "application/json";
        let version = match version {
            Some(version) => version,
            None => version_of(&self.send(Method::GET, &path, json, String::new()).await),
        };
        let renewed = lease(index, Some(&version)).to_string();
        version_of(&self.send(Method::PUT, &path, json, renewed).await)
    }

    async fn pod(&self, index: usize) {
        let app = format!("app-{}", index % OWNERS);
        let pod = json!({
            "metadata": {
                "name": format!("pod-{index}"), "labels": { "app": app },
                "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app,
                    "uid": app, "controller": true }],
            },
            "spec": { "containers": [{ "name": "c", "image": "registry.example/web:1",
                "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } } }] },
        });
        self.post("/api/v1/namespaces/default/pods", &pod).await;
    }
}

fn version_of(object: &[u8]) -> String {
    let object: Value = serde_json::from_slice(object).unwrap();
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn name(index: usize) -> String {
    format!("node-{index:05}")
}

/// A Lease is only replaced by who knows which one.
fn lease(index: usize, version: Option<&str>) -> Value {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    json!({
        "metadata": { "name": name(index), "namespace": "kube-node-lease",
            "resourceVersion": version },
        "spec": { "holderIdentity": name(index), "leaseDurationSeconds": 40, "renewTime": now },
    })
}

/// Each node renews every ten seconds, all of them evenly over that time.
async fn renew(api: Api, nodes: usize, late: Arc<AtomicUsize>, stop: CancellationToken) {
    let begun = Instant::now();
    let step = LEASE_PERIOD / u32::try_from(nodes).unwrap();
    let versions = Arc::new(Mutex::new(vec![None::<String>; nodes]));
    let renewals = (0_u32..).map(|turn| {
        let (api, late, versions) = (api.clone(), late.clone(), versions.clone());
        async move {
            let due = begun + step * turn;
            tokio::time::sleep_until(due.into()).await;
            let index = turn as usize % nodes;
            let version = versions.lock().unwrap()[index].take();
            versions.lock().unwrap()[index] = Some(api.renew(index, version).await);
            if due.elapsed() > Duration::from_secs(1) {
                late.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let all = stream::iter(renewals).buffered(AT_ONCE).for_each(|()| async {});
    tokio::select! {
        () = stop.cancelled() => {}
        () = all => {}
    }
}

/// Follows all pods; gives the times of the first binding and of the last.
async fn watch(api: Api, pods: usize, reports: mpsc::Sender<String>) -> (Instant, Instant) {
    let path = "/api/v1/namespaces/default/pods?limit=1";
    let list = api.send(Method::GET, path, "application/json", String::new()).await;
    let list: Value = serde_json::from_slice(&list).unwrap();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let uri = format!(
        "/api/v1/namespaces/default/pods?watch=1&resourceVersion={version}&timeoutSeconds=3600"
    );
    let request = Request::builder().uri(uri).body(Full::new(Bytes::new())).unwrap();
    let mut body = Box::pin(api.service.clone().call(request).await.unwrap().into_body());
    let (mut seen, mut first, mut rest) = (0, None, Vec::new());
    while seen < pods {
        let frame = body.frame().await.unwrap().unwrap();
        let Ok(part) = frame.into_data() else { continue };
        rest.extend_from_slice(&part);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            // Events of pods that are bound and do not run yet.
            let text = std::str::from_utf8(&line).unwrap();
            if !text.contains("\"nodeName\":") || text.contains("\"phase\":\"Running\"") {
                continue;
            }
            seen += 1;
            first.get_or_insert_with(Instant::now);
            let at = text.find("\"name\":\"pod-").unwrap() + "\"name\":\"".len();
            let pod = text[at..].split('"').next().unwrap().to_owned();
            reports.send(pod).await.unwrap();
        }
    }
    (first.unwrap(), Instant::now())
}

/// The nodes' word that pods run: at once, or when all are bound.
async fn report(api: Api, mut bound: mpsc::Receiver<String>, busy: bool) {
    let run = |pod: String| {
        let api = api.clone();
        async move {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let status = json!({ "status": { "phase": "Running", "startTime": now, "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": now }] } });
            let path = format!("/api/v1/namespaces/default/pods/{pod}/status");
            let kind = "application/strategic-merge-patch+json";
            api.send(Method::PATCH, &path, kind, status.to_string()).await;
        }
    };
    if busy {
        let each = stream::poll_fn(|context| bound.poll_recv(context)).map(run);
        each.buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
        return;
    }
    let mut all = Vec::new();
    while let Some(pod) = bound.recv().await {
        all.push(pod);
    }
    stream::iter(all).map(run).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
}

async fn list(api: &Api, pods: usize) {
    let (mut times, mut bytes) = (Vec::new(), 0);
    for _ in 0..LIST_ROUNDS {
        let (mut token, mut count) = (String::new(), 0);
        loop {
            let path = format!("/api/v1/pods?limit={PAGE}&continue={token}");
            let begun = Instant::now();
            let page = api.send(Method::GET, &path, "application/json", String::new()).await;
            times.push(begun.elapsed());
            bytes += page.len();
            let page: Value = serde_json::from_slice(&page).unwrap();
            count += page["items"].as_array().unwrap().len();
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(count, pods);
    }
    times.sort();
    let ms = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "| list by page of {PAGE}, p50, p99, longest | {:.1}, {:.1}, {:.1} ms |",
        ms(50),
        ms(99),
        ms(100)
    );
    println!("| the same, size of a page | {} kB |", bytes / times.len() / 1_000);
}

async fn spread(api: &Api, nodes: usize) {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let path = "/api/v1/pods";
    let all = api.send(Method::GET, path, "application/json", String::new()).await;
    let all: Value = serde_json::from_slice(&all).unwrap();
    for pod in all["items"].as_array().unwrap() {
        *counts.entry(pod["spec"]["nodeName"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
    println!("| pods on a node, least and most | {least}, {most} on {} of {nodes} |", counts.len());
}
