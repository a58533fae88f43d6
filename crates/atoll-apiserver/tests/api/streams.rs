//! Logs and upgrades through the server to a kubelet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use atoll_apiserver::server::accepted;
use atoll_apiserver::{Trust, TrustConfig};
use atoll_identity::{
    AccountKey, Authority, AuthorityKind, Leaf, certificates_from_pem, private_key_from_pem,
};
use futures::StreamExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::client::Api;

fn trust() -> (Arc<Trust>, TlsAcceptor) {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let now = Timestamp::now();
    let make = |kind| Authority::create(kind, "test", now).unwrap();
    let kubelet = make(AuthorityKind::Kubelet);
    let leaf = Leaf::serving("n1", &["n1"], &[localhost], SignedDuration::from_hours(1));
    let issued = kubelet.issue(&leaf, now).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(kubelet.certificate_der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(
            certificates_from_pem("kubelet", &issued.certificate_pem).unwrap(),
            private_key_from_pem("kubelet", issued.key_pem.as_deref().unwrap()).unwrap(),
        )
        .unwrap();
    let (client, serving) = (make(AuthorityKind::Client), make(AuthorityKind::Serving));
    let account = AccountKey::create().unwrap();
    let settings = TrustConfig::new(client, serving, kubelet, account, vec![localhost]);
    (Trust::new(settings, now).unwrap(), TlsAcceptor::from(Arc::new(config)))
}

/// A kubelet that answers logs with its path and echoes whatever is upgraded.
async fn kubelet(listener: TcpListener, tls: TlsAcceptor) {
    let mut connections = accepted(listener);
    let mut tasks = JoinSet::new();
    while let Some((stream, _)) = connections.next().await {
        let tls = tls.clone();
        tasks.spawn(async move {
            let stream = tls.accept(stream).await.unwrap();
            let service =
                service_fn(
                    |request| async move { Ok::<_, std::convert::Infallible>(answer(request)) },
                );
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await
        });
    }
}

fn answer(mut request: http::Request<hyper::body::Incoming>) -> http::Response<String> {
    let path = request.uri().to_string();
    if path.starts_with("/containerLogs/default/gone") {
        let text = "container \"c\" in pod \"gone\" is waiting to start: ContainerCreating";
        return http::Response::builder().status(400).body(text.to_owned()).unwrap();
    }
    if path == "/stats/summary" {
        return http::Response::new(summary().to_string());
    }
    if request.headers().get("upgrade").is_none() {
        return http::Response::new(path);
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let echo = async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
        write.write_all(path.as_bytes()).await.unwrap();
        tokio::io::copy(&mut read, &mut write).await.map(drop)
    };
    #[allow(clippy::disallowed_methods, reason = "ends with its connection, in a test")]
    tokio::spawn(echo);
    http::Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(String::new())
        .unwrap()
}

/// A node whose pod `p` has run for two readings, and `gone` for one.
fn summary() -> serde_json::Value {
    let at = "2026-01-02T03:04:05.678Z";
    let cpu = |nanocores: u64| json!({"time": at, "usageNanoCores": nanocores, "windowNanoSeconds": 10_000_000_000_u64});
    let memory = json!({"time": at, "workingSetBytes": 3 << 20});
    let pod = |name: &str, cpu: &serde_json::Value| {
        json!({"podRef": {"name": name, "namespace": "default"}, "cpu": cpu, "memory": memory,
            "containers": [{"name": "c", "cpu": cpu, "memory": memory}]})
    };
    let once = json!({"time": at, "usageCoreNanoSeconds": 5});
    json!({"node": {"nodeName": "n1", "cpu": cpu(250_000_000), "memory": memory},
        "pods": [pod("p", &cpu(5_000_000)), pod("gone", &once)]})
}

async fn world() -> (Api, SocketAddr, JoinSet<()>) {
    let (trust, tls) = trust();
    let api = Api::start_with(|config| config.kubelet_tls = Some(trust.kubelet_tls.clone())).await;
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(kubelet(listener, tls));
    let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = http.local_addr().unwrap();
    let server = api.server.clone();
    tasks.spawn(async move { server.serve_http(http, CancellationToken::new()).await });
    api.create("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await.ok();
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    api.merge("/api/v1/nodes/n1/status", &status).await.ok();
    for (name, node) in [("p", "n1"), ("gone", "n1"), ("waiting", "")] {
        let mut pod = json!({
            "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]},
        });
        if !node.is_empty() {
            pod["spec"]["nodeName"] = json!(node);
        }
        api.create("/api/v1/namespaces/default/pods", &pod).await.ok();
    }
    (api, address, tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_come_from_the_node() {
    let (api, _, _tasks) = world().await;
    let pods = "/api/v1/namespaces/default/pods";
    let log = api.get(&format!("{pods}/p/log?tailLines=3&follow=true")).await;
    assert_eq!(log.body, "/containerLogs/default/p/c?follow=true&tailLines=3");
    let gone = api.get(&format!("{pods}/gone/log")).await;
    gone.fails(400, "container \"c\" in pod \"gone\" is waiting to start: ContainerCreating");
    let waiting = api.get(&format!("{pods}/waiting/log")).await;
    assert_eq!(waiting.code, 200, "nobody has written it: {}", waiting.body);
    let negative = api.get(&format!("{pods}/p/log?tailLines=-1")).await;
    negative.fails(
        422,
        "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or \
         equal to 0",
    );
    let bare = api.get(&format!("{pods}/p/exec?command=sh&stdout=true")).await;
    bare.fails(400, "Upgrade request required");
    let other = api.get(&format!("{pods}/p/log?container=x")).await;
    other.fails(400, "container x is not valid for pod p");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_becomes_a_tunnel() {
    let (api, address, _tasks) = world().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = "POST /api/v1/namespaces/default/pods/p/exec?command=sh&stdin=true&stdout=true \
                   HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Content-Length: 0\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("command=sh") {
        let mut buffer = [0; 1024];
        let read = client.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
    assert!(seen.ends_with("/exec/default/p/c?input=1&output=1&command=sh"), "{seen}");
    client.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_proxy_leads_to_its_kubelet() {
    let (api, _, _tasks) = world().await;
    let node = "/api/v1/nodes/n1/proxy";
    let answer = api.get(&format!("{node}/stats/summary?only=a&b=%20c")).await;
    assert_eq!(answer.body, "/stats/summary?only=a&b=%20c");
    let port = api.get("/api/v1/nodes/n1").await.ok();
    let port = &port["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let named = api.get(&format!("/api/v1/nodes/n1:{port}/proxy/a%20b/")).await;
    assert_eq!(named.body, "/a%20b/");
    // What the client wants to read is between it and the server behind.
    let headers = [("accept", "text/html")];
    let post = api.send(http::Method::POST, &format!("{node}/x"), &headers, "body").await;
    assert_eq!((post.code, post.body), (200, json!("/x")));
    let root = api.get(&format!("{node}?a=b")).await;
    assert_eq!(
        (root.code, root.headers["location"].to_str().ok()),
        (301, Some("/api/v1/nodes/n1/proxy/?a=b"))
    );
    // A loopback address is that of the server itself, not of the node.
    api.get("/api/v1/nodes/n1:80/proxy/").await.fails(400, "address not allowed");
    api.get("/api/v1/nodes/ftp:n1:80/proxy/")
        .await
        .fails(400, "invalid node request \"ftp:n1:80\"");
    api.get("/api/v1/nodes/n2/proxy/").await.fails(404, "nodes \"n2\" not found");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_goes_through_a_nodes_proxy() {
    let (api, address, _tasks) = world().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = "GET /api/v1/nodes/n1/proxy/some/path?x=1 HTTP/1.1\r\nHost: x\r\n\
                   Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("/some/path?x=1") {
        let mut buffer = [0; 1024];
        let read = client.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
    client.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_pods_and_services_say_why_they_lead_nowhere() {
    let (api, _, _tasks) = world().await;
    let (pods, services) =
        ("/api/v1/namespaces/default/pods", "/api/v1/namespaces/default/services");
    api.get(&format!("{pods}/none/proxy/")).await.fails(404, "pods \"none\" not found");
    api.get(&format!("{pods}/waiting/proxy/")).await.fails(400, "address not allowed");
    // Nor may a pod that claims to be the server's own machine be followed.
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    api.merge(&format!("{pods}/p/status"), &status).await.ok();
    api.get(&format!("{pods}/p:8080/proxy/")).await.fails(400, "address not allowed");
    let service = json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"},
        "ports": [{"name": "http", "port": 80}]}});
    api.create(services, &service).await.ok();
    api.get(&format!("{services}/s:81/proxy/"))
        .await
        .fails(503, "no service port 81 found for service \"s\"");
    api.get(&format!("{services}/s:http/proxy/"))
        .await
        .fails(503, "no endpoints available for service \"s:http\"");
    // An endpoint that is no pod of that address is not followed.
    let slice = json!({"metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
        "endpoints": [{"addresses": ["10.9.8.7"], "targetRef": {"kind": "Pod", "name": "p"}}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    api.create(slices, &slice).await.ok();
    api.get(&format!("{services}/s:http/proxy/"))
        .await
        .fails(503, "no endpoints available for service \"s:http\"");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_what_the_kubelets_say() {
    let (api, _, _tasks) = world().await;
    let root = "/apis/metrics.k8s.io/v1beta1";
    let nodes = api.get(&format!("{root}/nodes")).await.ok();
    assert_eq!((&nodes["kind"], &nodes["metadata"]), (&json!("NodeMetricsList"), &json!({})));
    let node = &nodes["items"][0];
    assert_eq!(node["usage"], json!({"cpu": "250m", "memory": "3Mi"}));
    assert_eq!(
        (&node["window"], &node["timestamp"]),
        (&json!("10s"), &json!("2026-01-02T03:04:05Z"))
    );
    let one = api.get(&format!("{root}/nodes/n1")).await.ok();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("NodeMetrics"), &json!("n1")));
    // A container that was read once has no rate, and its pod no metrics.
    let pods = api.get(&format!("{root}/namespaces/default/pods")).await.ok();
    let names: Vec<_> =
        pods["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["p"]);
    let usage = json!({"cpu": "5m", "memory": "3Mi"});
    assert_eq!(pods["items"][0]["containers"], json!([{"name": "c", "usage": usage}]));
    api.get(&format!("{root}/namespaces/default/pods/gone"))
        .await
        .fails(404, "podmetrics.metrics.k8s.io \"default/gone\" not found");
    let none = api.get(&format!("{root}/pods?labelSelector=a=b")).await.ok();
    assert_eq!(none["items"], json!([]));
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.send(http::Method::GET, &format!("{root}/pods"), &accept, "").await.ok();
    assert_eq!(table["rows"][0]["cells"], json!(["p", "5m", "3Mi", "10s"]));
    let create = api.create(&format!("{root}/nodes"), &json!({})).await;
    assert_eq!(create.code, 405);
    let groups = api.get("/apis/metrics.k8s.io/v1beta1").await.ok();
    assert_eq!(groups["resources"].as_array().unwrap().len(), 2);
    api.shutdown().await;
}
