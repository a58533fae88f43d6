//! A cluster of one API server, and a client for it that speaks HTTPS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use atoll_apiserver::server::accepted;
use atoll_apiserver::{ApiServer, Config, Trust, TrustConfig};
use atoll_identity::{AccountKey, Authority, AuthorityKind, Issued, Leaf};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) trust: Arc<Trust>,
    pub(crate) address: SocketAddr,
    store: EmbeddedStore,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    _dir: Option<tempfile::TempDir>,
}

/// Who calls.
#[derive(Clone, Default)]
pub(crate) struct Caller {
    certificate: Option<Issued>,
    headers: Vec<(String, String)>,
}

pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

pub(crate) struct Keys {
    pub(crate) client: Authority,
    pub(crate) serving: Authority,
    pub(crate) kubelet: Authority,
    pub(crate) account: AccountKey,
}

impl Keys {
    pub(crate) fn create() -> Self {
        let make = |kind| Authority::create(kind, "test", now()).unwrap();
        Self {
            client: make(AuthorityKind::Client),
            serving: make(AuthorityKind::Serving),
            kubelet: make(AuthorityKind::Kubelet),
            account: AccountKey::create().unwrap(),
        }
    }

    /// The same keys once more, as after a restart.
    pub(crate) fn again(&self) -> Self {
        let load = |one: &Authority| {
            Authority::load(one.kind(), one.certificate_pem(), one.key_pem()).unwrap()
        };
        Self {
            client: load(&self.client),
            serving: load(&self.serving),
            kubelet: load(&self.kubelet),
            account: AccountKey::load(self.account.key_pem()).unwrap(),
        }
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let mut cluster = Self::start_on(&path, Keys::create(), change).await;
        cluster._dir = Some(dir);
        cluster
    }

    pub(crate) async fn start_in(dir: &std::path::Path, keys: Keys) -> Self {
        Self::start_on(dir, keys, |_| {}).await
    }

    async fn start_on(dir: &std::path::Path, keys: Keys, change: impl FnOnce(&mut Config)) -> Self {
        let config = StoreConfig { dir: dir.to_owned(), ..StoreConfig::default() };
        let store = EmbeddedStore::open(config).await.unwrap();
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let Keys { client, serving, kubelet, account } = keys;
        let trust = TrustConfig::new(client, serving, kubelet, account, vec![localhost]);
        let trust = Trust::new(trust, now()).unwrap();
        let mut config = Config::new(store.keyspace(Keyspace::Cluster));
        config.trust = Some(trust.clone());
        change(&mut config);
        let server = ApiServer::start(config).await.unwrap();
        let listener = TcpListener::bind((localhost, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (serving, tls, end) = (server.clone(), server.tls().unwrap(), stop.clone());
        tasks.spawn(async move { serving.serve_tls(accepted(listener), tls, end).await });
        Self { server, trust, address, store, stop, tasks, _dir: None }
    }

    pub(crate) async fn shutdown(mut self) {
        self.stop.cancel();
        self.server.shutdown().await;
        while self.tasks.join_next().await.is_some() {}
        self.store.shutdown().await;
    }

    pub(crate) fn with_certificate(&self, user: &str, groups: &[&str]) -> Caller {
        let leaf = Leaf::client(user, groups, SignedDuration::from_hours(1));
        Caller {
            certificate: Some(self.trust.client.issue(&leaf, now()).unwrap()),
            headers: Vec::new(),
        }
    }

    pub(crate) fn admin(&self) -> Caller {
        self.with_certificate("admin", &["system:masters"])
    }

    pub(crate) async fn call(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        self.try_call(caller, method, path, body).await.unwrap()
    }

    /// The error is that of TLS or of the connection.
    pub(crate) async fn try_call(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(u16, Value), String> {
        let stream = self.connect(caller, &[]).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let mut request = Request::builder().method(method).uri(path).header("host", "test");
        let mut headers = caller.headers.clone();
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = request.body(Full::new(bytes)).unwrap();
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let code = response.status().as_u16();
            let bytes =
                response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
            let value = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_text| json!(String::from_utf8_lossy(&bytes)));
            Ok((code, value))
        };
        tokio::select! {
            answer = exchange => answer,
            ended = connection => Err(format!("the connection ended: {ended:?}")),
        }
    }

    /// A connection on which nothing was said yet but the protocols that the client speaks.
    pub(crate) async fn connect(
        &self,
        caller: &Caller,
        protocols: &[&str],
    ) -> Result<TlsStream<TcpStream>, String> {
        let mut config = self.client_config(caller);
        config.alpn_protocols = protocols.iter().map(|one| one.as_bytes().to_vec()).collect();
        let tls = TlsConnector::from(Arc::new(config));
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let name = ServerName::IpAddress(self.address.ip().into());
        tls.connect(name, stream).await.map_err(|error| error.to_string())
    }

    fn client_config(&self, caller: &Caller) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.trust.serving.certificate_der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let Some(issued) = &caller.certificate else { return builder.with_no_client_auth() };
        let chain = atoll_identity::certificates_from_pem("me", &issued.certificate_pem).unwrap();
        let key = issued.key_pem.as_deref().unwrap();
        let key = atoll_identity::private_key_from_pem("me", key).unwrap();
        builder.with_client_auth_cert(chain, key).unwrap()
    }
}

impl Caller {
    pub(crate) fn anonymous() -> Self {
        Self::default()
    }

    pub(crate) fn bearer(token: &str) -> Self {
        Self::default().header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn of(issued: Issued) -> Self {
        Self { certificate: Some(issued), headers: Vec::new() }
    }

    pub(crate) fn content_type(self, value: &str) -> Self {
        self.header("content-type", value)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}
