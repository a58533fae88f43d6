//! A server over a store in a temporary folder, and a client in the same process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use atoll_apiserver::authn::AlwaysUser;
use atoll_apiserver::authz::AlwaysAllow;
use atoll_apiserver::body::Body;
use atoll_apiserver::{Access, ApiServer, Config, LocalService, UserInfo};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

pub(crate) struct Api {
    pub(crate) server: ApiServer,
    service: LocalService,
    pub(crate) store: Arc<EmbeddedStore>,
    _dir: tempfile::TempDir,
}

/// An answer, its body read as JSON where it is.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!(self.code < 300, "{}: {}", self.code, self.body);
        self.body
    }

    #[track_caller]
    pub(crate) fn fails(self, code: u16, message: &str) -> Value {
        assert_eq!((self.code, self.body["message"].as_str()), (code, Some(message)));
        self.body
    }

    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.headers.get_all("warning").iter().filter_map(|one| one.to_str().ok()).collect()
    }
}

pub(crate) fn admin() -> UserInfo {
    UserInfo::authenticated("admin", ["system:masters"])
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(|_| {}, change).await
    }

    /// Over a store that is different, too.
    pub(crate) async fn start_on(
        settle: impl FnOnce(&mut StoreConfig),
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = StoreConfig { dir: dir.path().to_owned(), ..StoreConfig::default() };
        settle(&mut settings);
        let store = Arc::new(EmbeddedStore::open(settings).await.unwrap());
        let mut config = Config::new(store.keyspace(Keyspace::Cluster));
        change(&mut config);
        let api = Self::over(config, store, dir).await;
        // Pods may not be created without it; the controllers make it otherwise.
        let account = json!({"metadata": {"name": "default"}});
        api.create("/api/v1/namespaces/default/serviceaccounts", &account).await.ok();
        api
    }

    async fn over(config: Config, store: Arc<EmbeddedStore>, dir: tempfile::TempDir) -> Self {
        let server = ApiServer::start_with(config, |_, _| {
            let authenticator = Arc::new(AlwaysUser(admin()));
            Ok(Access { authenticator, authorizer: Arc::new(AlwaysAllow) })
        })
        .await
        .unwrap();
        let service = server.local_service(admin());
        Self { server, service, store, _dir: dir }
    }

    /// Another server over the same store.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(|_| {}).await
    }

    pub(crate) async fn restart_with(self, change: impl FnOnce(&mut Config)) -> Self {
        self.server.shutdown().await;
        let mut config = Config::new(self.store.keyspace(Keyspace::Cluster));
        change(&mut config);
        Self::over(config, self.store, self._dir).await
    }

    /// One more server over the same store, beside this one.
    pub(crate) async fn beside(&self, keyspace: Keyspace) -> Self {
        let config = Config::new(self.store.keyspace(keyspace));
        Self::over(config, self.store.clone(), tempfile::tempdir().unwrap()).await
    }

    /// Where the store stands.
    pub(crate) fn dir(&self) -> &Path {
        self._dir.path()
    }

    /// Ends server and store; the folder goes with what is returned.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.server.shutdown().await;
        self.store.shutdown().await;
        self._dir
    }

    pub(crate) async fn shutdown(self) {
        self.server.shutdown().await;
        self.store.shutdown().await;
    }

    /// Serves on a loopback address too, without TLS, until the server ends: for whoever needs a
    /// socket.
    pub(crate) async fn open(&self) -> (SocketAddr, JoinSet<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.server.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.serve_http(listener, CancellationToken::new()).await });
        (address, tasks)
    }

    pub(crate) async fn response(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        self.service.clone().call(request).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.response(request.body(Full::new(body.into())).unwrap()).await;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| text());
        Answer { code: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::POST, path, &[JSON], object.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::PUT, path, &[JSON], object.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, format: &str, patch: &Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", format)], patch.to_string()).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.patch(path, MERGE, patch).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.send(Method::DELETE, path, &[JSON], options.to_string()).await
    }

    pub(crate) async fn watch(&self, path: &str, accept: &str) -> Watch {
        let request = Request::builder().uri(path).header("accept", accept);
        let response = self.response(request.body(Full::default()).unwrap()).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

/// An open watch.
pub(crate) struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("an event within ten seconds")?;
            self.rest.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
    }

    /// Type and name of the next event.
    pub(crate) async fn step(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

/// Recorded from upstream, beside the repository; says so when they are not there.
pub(crate) fn oracle(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/oracles");
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: there is no {}", path.display());
    None
}
