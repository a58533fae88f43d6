//! Who has to wait for whom.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use atoll_apiserver::authn::Authenticator;
use atoll_apiserver::authz::AlwaysAllow;
use atoll_apiserver::status::Status;
use atoll_apiserver::user::Connection;
use atoll_apiserver::{Access, ApiServer, Config, UserInfo};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use http::request::Parts;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::client::{Api, config_map};
use crate::hooked::Hook;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

#[tokio::test(flavor = "multi_thread")]
async fn the_levels_of_upstream_are_there_and_named_with_answers() {
    let api = Api::start().await;
    let schemas = api.get(&format!("{GROUP}/flowschemas")).await;
    let uid = |value: &Value| value["metadata"]["uid"].as_str().unwrap().to_owned();
    let exempt = api.get(&format!("{GROUP}/flowschemas/exempt")).await.ok();
    assert_eq!(schemas.headers["x-kubernetes-pf-flowschema-uid"], uid(&exempt));
    let level = api.get(&format!("{GROUP}/prioritylevelconfigurations/exempt")).await.ok();
    assert_eq!(schemas.headers["x-kubernetes-pf-prioritylevel-uid"], uid(&level));
    assert_eq!(schemas.ok()["items"].as_array().unwrap().len(), 11);
    let levels = api.get(&format!("{GROUP}/prioritylevelconfigurations")).await.ok();
    assert_eq!(levels["items"].as_array().unwrap().len(), 8);
    // What is mandatory comes back, and a schema without its level says so.
    api.delete(&format!("{GROUP}/flowschemas/catch-all")).await.ok();
    let orphan = json!({"metadata": {"name": "orphan"}, "spec": {
        "priorityLevelConfiguration": {"name": "nowhere"},
    }});
    api.create(&format!("{GROUP}/flowschemas"), &orphan).await.ok();
    for _ in 0..100 {
        let back = api.get(&format!("{GROUP}/flowschemas/catch-all")).await.code == 200;
        let orphan = api.get(&format!("{GROUP}/flowschemas/orphan")).await.ok();
        if back && orphan["status"]["conditions"][0]["status"] == "True" {
            api.shutdown().await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not kept within five seconds");
}

/// Believes what a header says.
struct Named;

#[async_trait]
impl Authenticator for Named {
    async fn authenticate(&self, request: &Parts, _: &Connection) -> Result<UserInfo, Status> {
        let name = request.headers.get("x-user").and_then(|name| name.to_str().ok());
        let name = name.unwrap_or("nobody");
        let group = if name.starts_with("system:node:") { "system:nodes" } else { "tenants" };
        Ok(UserInfo::authenticated(name, [group]))
    }
}

struct World {
    server: ApiServer,
    address: SocketAddr,
    store: EmbeddedStore,
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn world(seats: usize) -> World {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
    let store = EmbeddedStore::open(settings).await.unwrap();
    let mut config = Config::new(store.keyspace(Keyspace::Cluster));
    config.requests_in_flight_max = seats;
    let server = ApiServer::start_with(config, |_, _| {
        Ok(Access { authenticator: Arc::new(Named), authorizer: Arc::new(AlwaysAllow) })
    })
    .await
    .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = server.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { serving.serve_http(listener, CancellationToken::new()).await });
    World { server, address, store, _dir: dir, _tasks: tasks }
}

/// One request on a connection of its own; the head of its answer, and how long it took.
async fn ask(
    address: SocketAddr,
    user: &str,
    method: &str,
    path: &str,
    body: &str,
) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nX-User: {user}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let head = answer.split("\r\n\r\n").next().unwrap_or("").to_owned();
    (head, started.elapsed())
}

/// One tenant sends four hundred requests that take a twentieth of a second each, and there is
/// one seat for all tenants.
#[tokio::test(flavor = "multi_thread")]
async fn a_noisy_tenant_waits_behind_himself() {
    let world = world(10).await;
    let hook = Hook::start(|_| json!({"allowed": true, "sleep": 0.05})).await;
    let webhook = hook.webhook("slow.example.com", &["CREATE"], "configmaps");
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let configuration = json!({"metadata": {"name": "v"}, "webhooks": [webhook]}).to_string();
    let (head, _) = ask(world.address, "admin", "POST", path, &configuration).await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let mut noise = JoinSet::new();
    for number in 0..400 {
        let (address, body) = (world.address, config_map(&format!("n{number}")).to_string());
        noise.spawn(async move { ask(address, "noisy", "POST", maps, &body).await });
    }
    tokio::time::sleep(Duration::from_millis(1000)).await;
    // Another tenant, and a node.
    let body = config_map("quiet").to_string();
    let (head, quiet) = ask(world.address, "quiet", "POST", maps, &body).await;
    assert!(head.starts_with("HTTP/1.1 201"), "{head}");
    let (head, node) =
        ask(world.address, "system:node:n1", "GET", "/api/v1/nodes?limit=1", "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let mut refused = 0;
    let mut slowest = Duration::ZERO;
    while let Some(answer) = noise.join_next().await {
        let (head, took) = answer.unwrap();
        if head.starts_with("HTTP/1.1 429") {
            assert!(head.to_ascii_lowercase().contains("retry-after: 1"), "{head}");
            refused += 1;
        }
        slowest = slowest.max(took);
    }
    println!("quiet {quiet:?}, node {node:?}, noisy up to {slowest:?}, {refused} refused");
    assert!(quiet < Duration::from_millis(1500), "{quiet:?}");
    assert!(node < Duration::from_millis(1000), "{node:?}");
    assert!(refused > 50, "{refused}");
    assert!(slowest > quiet * 3, "{slowest:?}");
    world.server.shutdown().await;
    world.store.shutdown().await;
}
