//! API servers behind this one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use atoll_apiserver::server::accepted;
use futures::StreamExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::client::Api;
use crate::hooked::tls;
use crate::webhooks::put;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// A server of things: says what it has, and answers who it believes is asking.
pub(crate) async fn things() -> (SocketAddr, String, JoinSet<()>) {
    let (tls, bundle) = tls(&["things.default.svc"]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut connections = accepted(listener);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut tasks = JoinSet::new();
        while let Some((stream, _)) = connections.next().await {
            let tls = tls.clone();
            tasks.spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = service_fn(|request| async move {
                    Ok::<_, std::convert::Infallible>(answer(request))
                });
                let http = hyper::server::conn::http1::Builder::new();
                let serving = http.serve_connection(TokioIo::new(stream), service);
                drop(serving.with_upgrades().await);
            });
        }
    });
    (address, bundle, tasks)
}

fn answer(mut request: http::Request<hyper::body::Incoming>) -> http::Response<String> {
    let header = |name: &str| -> Vec<String> {
        let all = request.headers().get_all(name).iter();
        all.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
    };
    let value = match request.uri().path() {
        "/apis/things.io/v1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "things.io/v1",
            "resources": [
                {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing",
                    "verbs": ["get", "list"], "shortNames": ["th"]},
                {"name": "things/size", "singularName": "", "namespaced": true, "kind": "Size",
                    "verbs": ["get"]},
            ],
        }),
        "/openapi/v3" => json!({"paths": {"apis/things.io/v1": {
            "serverRelativeURL": "/openapi/v3/apis/things.io/v1?hash=abc",
        }}}),
        path => json!({
            "path": path, "query": request.uri().query(), "user": header("x-remote-user"),
            "groups": header("x-remote-group"), "authorization": header("authorization"),
        }),
    };
    if request.headers().get("upgrade").is_none() {
        return http::Response::new(value.to_string());
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let echo = async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await.unwrap()));
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

async fn condition(api: &Api, name: &str, reason: &str) -> Value {
    for _ in 0..100 {
        let service = api.get(&format!("{SERVICES}/{name}")).await.body;
        let conditions = service["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if let Some(found) = conditions.into_iter().find(|one| one["reason"] == reason) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no {reason} within ten seconds: {}", api.get(&format!("{SERVICES}/{name}")).await.body);
}

async fn slice(api: &Api, port: u16, ready: bool) {
    let slice = json!({
        "metadata": {"name": "things-1", "labels": {"kubernetes.io/service-name": "things"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": ready}}],
        "ports": [{"name": "", "port": port}],
    });
    let key = "discovery.k8s.io/endpointslices/default/things-1";
    put(api, key, "discovery.k8s.io/v1", "EndpointSlice", slice).await;
}

/// Makes everything by which a server of things is found, and waits until it is.
pub(crate) async fn register(api: &Api, port: u16, bundle: &str) {
    let backing = json!({"metadata": {"name": "things"}, "spec": {"ports": [{"port": 443}]}});
    api.create("/api/v1/namespaces/default/services", &backing).await.ok();
    slice(api, port, true).await;
    let service = json!({"metadata": {"name": "v1.things.io"}, "spec": {
        "group": "things.io", "version": "v1", "groupPriorityMinimum": 1000,
        "versionPriority": 10, "caBundle": bundle,
        "service": {"namespace": "default", "name": "things"},
    }});
    api.create(SERVICES, &service).await.ok();
    condition(api, "v1.things.io", "Passed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_here_has_its_own() {
    let api = Api::start().await;
    for name in ["v1.", "v1.apps", "v2.autoscaling"] {
        let found = condition(&api, name, "Local").await;
        assert_eq!(found["status"], "True", "{name}");
    }
    let one = api.get(&format!("{SERVICES}/v1.apps")).await.ok();
    assert_eq!(
        one["metadata"]["labels"],
        json!({"kube-aggregator.kubernetes.io/automanaged": "onstart"})
    );
    assert_eq!(
        one["spec"],
        json!({
            "group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15,
        })
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_passed_on() {
    let (address, bundle, _tasks) = things().await;
    let api = Api::start().await;
    let service = json!({"metadata": {"name": "v1.things.io"}, "spec": {
        "group": "things.io", "version": "v1", "groupPriorityMinimum": 1000,
        "versionPriority": 10, "caBundle": bundle,
        "service": {"namespace": "default", "name": "things"},
    }});
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let asked = [("accept", accept)];
    let known = api.send(http::Method::GET, "/apis", &asked, bytes::Bytes::new()).await;
    let known = known.headers["etag"].to_str().unwrap().to_owned();
    api.create(SERVICES, &service).await.ok();
    let lacking = condition(&api, "v1.things.io", "ServiceNotFound").await;
    assert_eq!(lacking["message"], "service/things in \"default\" is not present");
    let away = api.get("/apis/things.io/v1/things").await;
    assert_eq!((away.code, away.body), (503, json!("service unavailable\n")));
    let backing = json!({"metadata": {"name": "things"}, "spec": {"ports": [{"port": 443}]}});
    api.create("/api/v1/namespaces/default/services", &backing).await.ok();
    condition(&api, "v1.things.io", "EndpointsNotFound").await;
    slice(&api, address.port(), true).await;
    let passed = condition(&api, "v1.things.io", "Passed").await;
    assert_eq!(
        (&passed["status"], &passed["message"]),
        (&json!("True"), &json!("all checks passed"))
    );
    let things = api
        .send(
            http::Method::GET,
            "/apis/things.io/v1/namespaces/a/things/b?x=%2Fy",
            &[("authorization", "Bearer secret"), ("x-remote-user", "root")],
            bytes::Bytes::new(),
        )
        .await
        .ok();
    assert_eq!(
        things,
        json!({
            "path": "/apis/things.io/v1/namespaces/a/things/b", "query": "x=%2Fy",
            "user": ["admin"], "groups": ["system:masters", "system:authenticated"],
            "authorization": [],
        })
    );
    discovered(&api).await;
    // What a client had before is not what there is now, and what it has now is.
    let headers = [("accept", accept), ("if-none-match", &known)];
    let merged = api.send(http::Method::GET, "/apis", &headers, bytes::Bytes::new()).await;
    assert_eq!(merged.code, 200);
    let headers = [("accept", accept), ("if-none-match", merged.headers["etag"].to_str().unwrap())];
    let again = api.send(http::Method::GET, "/apis", &headers, bytes::Bytes::new()).await;
    assert_eq!(again.code, 304);
    slice(&api, address.port(), false).await;
    let missing = condition(&api, "v1.things.io", "MissingEndpoints").await;
    assert_eq!(missing["status"], "False");
    assert_eq!(api.get("/apis/things.io/v1/things").await.code, 503);
    api.delete(&format!("{SERVICES}/v1.things.io")).await.ok();
    api.shutdown().await;
}

async fn discovered(api: &Api) {
    let groups = api.get("/apis").await.ok();
    let version = json!({"groupVersion": "things.io/v1", "version": "v1"});
    let group = json!({
        "name": "things.io", "versions": [version], "preferredVersion": version,
    });
    assert!(groups["groups"].as_array().unwrap().contains(&group));
    assert_eq!(api.get("/apis/things.io").await.ok()["kind"], "APIGroup");
    assert_eq!(api.get("/apis/things.io/v1").await.ok()["kind"], "APIResourceList");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let headers = [("accept", accept)];
    let all = api.send(http::Method::GET, "/apis", &headers, bytes::Bytes::new());
    let all = all.await.ok();
    let items = all["items"].as_array().unwrap();
    let own = items.iter().find(|item| item["metadata"]["name"] == "things.io").unwrap();
    assert_eq!(
        own["versions"],
        json!([{"version": "v1", "freshness": "Current", "resources": [{
            "resource": "things",
            "responseKind": {"group": "things.io", "version": "v1", "kind": "Thing"},
            "scope": "Namespaced", "singularResource": "thing", "verbs": ["get", "list"],
            "shortNames": ["th"],
            "subresources": [{
                "subresource": "size",
                "responseKind": {"group": "things.io", "version": "v1", "kind": "Size"},
                "verbs": ["get"],
            }],
        }]}])
    );
    let index = api.get("/openapi/v3").await.ok();
    assert_eq!(
        index["paths"]["apis/things.io/v1"]["serverRelativeURL"],
        "/openapi/v3/apis/things.io/v1?hash=abc"
    );
    let document = api.get("/openapi/v3/apis/things.io/v1?hash=abc").await.ok();
    assert_eq!(document["path"], "/openapi/v3/apis/things.io/v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_goes_through() {
    let (behind, bundle, _tasks) = things().await;
    let api = Api::start().await;
    register(&api, behind.port(), &bundle).await;
    let (address, _serving) = api.open().await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = "GET /apis/things.io/v1/namespaces/a/things/b/exec HTTP/1.1\r\nHost: x\r\n\
                   Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.ends_with("\r\n\r\n") {
        let mut byte = [0; 1];
        client.read_exact(&mut byte).await.unwrap();
        seen.push(char::from(byte[0]));
    }
    assert!(seen.starts_with("HTTP/1.1 101 "), "{seen}");
    client.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"hello");
    api.shutdown().await;
}
