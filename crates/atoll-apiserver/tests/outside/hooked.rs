//! A webhook for tests: answers what a function says, and remembers what it was asked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use atoll_apiserver::server::accepted;
use atoll_identity::{Authority, AuthorityKind, Leaf, certificates_from_pem, private_key_from_pem};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// What a webhook does with the request of a review.
pub(crate) type Say = dyn Fn(&Value) -> Value + Send + Sync;

pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    /// As `caBundle` has it.
    pub(crate) bundle: String,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
    _tasks: JoinSet<()>,
}

impl Hook {
    /// `say` makes the `response` of a review from its `request`; the uid is filled in.
    pub(crate) async fn start(say: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let (tls, bundle) = tls(&["hook.default.svc", "localhost"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, tls, Arc::new(say), seen.clone()));
        Self { address, bundle, seen, _tasks: tasks }
    }

    /// The paths and requests so far.
    pub(crate) fn seen(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().clone()
    }

    /// A webhook of a configuration, called by URL, for a resource of the core group.
    pub(crate) fn webhook(&self, name: &str, operations: &[&str], resource: &str) -> Value {
        json!({
            "name": name,
            "clientConfig": {
                "url": format!("https://localhost:{}/{name}", self.address.port()),
                "caBundle": self.bundle,
            },
            "rules": [{
                "operations": operations, "apiGroups": [""], "apiVersions": ["v1"],
                "resources": [resource],
            }],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        })
    }
}

/// A server's side of TLS and the authority that vouches for it.
pub(crate) fn tls(names: &[&str]) -> (TlsAcceptor, String) {
    let now = Timestamp::now();
    let authority = Authority::create(AuthorityKind::Serving, "test", now).unwrap();
    let address = Ipv4Addr::LOCALHOST.into();
    let leaf = Leaf::serving("hook", names, &[address], SignedDuration::from_hours(1));
    let issued = authority.issue(&leaf, now).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            certificates_from_pem("hook", &issued.certificate_pem).unwrap(),
            private_key_from_pem("hook", issued.key_pem.as_deref().unwrap()).unwrap(),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), STANDARD.encode(authority.certificate_pem()))
}

async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    say: Arc<Say>,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
) {
    let mut connections = accepted(listener);
    let mut tasks = JoinSet::new();
    while let Some((stream, _)) = connections.next().await {
        let (tls, say, seen) = (tls.clone(), say.clone(), seen.clone());
        tasks.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
                let (say, seen) = (say.clone(), seen.clone());
                async move {
                    let path = request.uri().to_string();
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let mut review: Value = serde_json::from_slice(&body).unwrap();
                    seen.lock().unwrap().push((path, review["request"].clone()));
                    let mut response = say(&review["request"]);
                    if let Some(seconds) = response["sleep"].as_f64() {
                        tokio::time::sleep(std::time::Duration::from_secs_f64(seconds)).await;
                    }
                    response["uid"] = review["request"]["uid"].clone();
                    review["request"].take();
                    review["response"] = response;
                    let body = Full::new(bytes::Bytes::from(review.to_string()));
                    Ok::<_, std::convert::Infallible>(http::Response::new(body))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            drop(http.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// The response that applies a patch.
pub(crate) fn patched(patch: &Value) -> Value {
    let patch = STANDARD.encode(patch.to_string());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}
