//! What is kept of requests.

use std::path::Path;
use std::sync::Arc;

use atoll_apiserver::AuditConfig;
use atoll_apiserver::audit::{LogConfig, Policy};
use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};
use crate::hooked::Hook;

const POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: None
  nonResourceURLs: ['/readyz*']
- level: RequestResponse
  resources: [{group: '', resources: [configmaps]}]
  verbs: [create]
  omitManagedFields: true
- level: Metadata
  resources: [{group: '', resources: [configmaps]}]
  omitStages: [RequestReceived]
- level: None
";

async fn start(file: &Path) -> Api {
    let policy = Arc::new(Policy::parse(POLICY).unwrap());
    let log = LogConfig { path: file.to_owned(), ..LogConfig::default() };
    Api::start_with(|config| config.audit = Some(AuditConfig { policy, log })).await
}

fn events(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_kept_as_the_policy_wants() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let api = start(&file).await;
    api.get("/readyz").await.ok();
    let made = api.create(CONFIG_MAPS, &config_map("x")).await;
    let id = made.headers["audit-id"].to_str().unwrap().to_owned();
    made.ok();
    api.get(&format!("{CONFIG_MAPS}/gone?pretty=1")).await;
    let mut watch =
        api.watch(&format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1"), "application/json").await;
    while watch.next().await.is_some() {}
    drop(watch);
    api.shutdown().await;
    let events = events(&file);
    let shown: Vec<_> = events
        .iter()
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or("").to_owned();
            (text("level"), text("stage"), text("verb"), event["responseStatus"]["code"].as_u64())
        })
        .collect();
    let line = |level: &str, stage: &str, verb: &str, code| {
        (level.to_owned(), stage.to_owned(), verb.to_owned(), code)
    };
    assert_eq!(
        shown,
        [
            line("RequestResponse", "RequestReceived", "create", None),
            line("RequestResponse", "ResponseComplete", "create", Some(201)),
            line("Metadata", "ResponseComplete", "get", Some(404)),
            line("Metadata", "ResponseStarted", "watch", Some(200)),
            line("Metadata", "ResponseComplete", "watch", Some(200)),
        ]
    );
    let created = &events[1];
    assert_eq!(created["auditID"], json!(id));
    assert_eq!(created["user"]["username"], "admin");
    assert_eq!(
        created["objectRef"],
        json!({"resource": "configmaps", "namespace": "default", "name": "x", "apiVersion": "v1"})
    );
    assert_eq!(created["requestObject"]["data"], json!({"a": "1"}));
    assert_eq!(created["responseObject"]["metadata"]["name"], "x");
    assert_eq!(created["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(created["annotations"]["authorization.k8s.io/decision"], "allow");
    let missing = &events[2];
    assert_eq!(missing["responseStatus"]["message"], "configmaps \"gone\" not found");
    assert_eq!(missing["requestURI"], format!("{CONFIG_MAPS}/gone?pretty=1"));
    assert_eq!(missing.get("responseObject"), None);
}

/// A connection that has become a WebSocket is a request until its client leaves.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_connection_becomes_ends_with_it() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let api = start(&file).await;
    let (address, _serving) = api.open().await;
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {CONFIG_MAPS}?watch=1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    socket.read_u8().await.unwrap();
    let stages = || -> Vec<_> {
        events(&file)
            .iter()
            .filter(|event| event["verb"] == "watch")
            .map(|event| (event["stage"].clone(), event["responseStatus"]["code"].clone()))
            .collect()
    };
    let begun = (json!("ResponseStarted"), json!(101));
    let written = async |wanted: &[(Value, Value)]| {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while stages() != wanted {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", stages());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    written(std::slice::from_ref(&begun)).await;
    // Another request is written down meanwhile.
    api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    written(std::slice::from_ref(&begun)).await;
    drop(socket);
    written(&[begun, (json!("ResponseComplete"), json!(101))]).await;
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_have_their_say_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let api = start(&file).await;
    let hook = Hook::start(|_| json!({"allowed": true, "auditAnnotations": {"seen": "yes"}})).await;
    let webhook = hook.webhook("a.example.com", &["CREATE"], "configmaps");
    crate::webhooks::configure(&api, "mutating", "m", vec![webhook]).await;
    api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    api.shutdown().await;
    let annotations = events(&file).pop().unwrap()["annotations"].clone();
    assert_eq!(annotations["a.example.com/seen"], "yes");
    let mutated = annotations["mutation.webhook.admission.k8s.io/round_0_index_0"].as_str();
    let mutated: Value = serde_json::from_str(mutated.unwrap()).unwrap();
    assert_eq!(
        mutated,
        json!({"configuration": "m", "webhook": "a.example.com", "mutated": false})
    );
}
