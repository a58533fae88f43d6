//! A lone `atoll server` without nodes: API, store, controllers and scheduler.

use crate::processes::{Memory, Process};
use atoll_e2e::cluster::{binary, free_port};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::{
    fs::File,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

const READY_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const KILOBYTE: f64 = 1024.0;

pub struct Server {
    child: Child,
    folder: TempDir,
    pub port: u16,
}

impl Server {
    /// On a new folder; ready when it says so at `/readyz`.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("atoll-bench-").tempdir().unwrap();
        let port = free_port();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(binary())
            .args(["server", "--name", "bench", "--data-dir"])
            .arg(folder.path().join("data"))
            .args(["--listen", &format!("127.0.0.1:{port}"), "--write-kubeconfig"])
            .arg(folder.path().join("kubeconfig"))
            .args(["--kubeconfig-server", &format!("https://127.0.0.1:{port}")])
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let server = Self { child, folder, port };
        tokio::time::timeout(READY_MAX, server.ready()).await.expect("the server became ready");
        server
    }

    async fn ready(&self) {
        loop {
            if let Some(client) = self.admin().await
                && client.request_text(get("/readyz")).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The administrator's client, once the kubeconfig is there.
    pub async fn admin(&self) -> Option<Client> {
        Client::try_from(self.config().await?).ok()
    }

    async fn config(&self) -> Option<Config> {
        let file = Kubeconfig::read_from(self.folder.path().join("kubeconfig")).ok()?;
        Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.ok()
    }

    /// A bearer token of a ServiceAccount that may do everything, and TLS that trusts the server.
    pub async fn trusted(&self) -> (String, Arc<rustls::ClientConfig>) {
        let admin = self.admin().await.unwrap();
        let account = json!({"metadata": {"name": "bench"}});
        post(&admin, "/api/v1/namespaces/default/serviceaccounts", &account).await;
        let binding = json!({
            "metadata": {"name": "bench"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "bench", "namespace": "default"}],
        });
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        post(&admin, bindings, &binding).await;
        let tokens = "/api/v1/namespaces/default/serviceaccounts/bench/token";
        let token = post(&admin, tokens, &json!({"spec": {"expirationSeconds": 7200}})).await;
        (token["status"]["token"].as_str().unwrap().to_owned(), Arc::new(self.tls().await))
    }

    async fn tls(&self) -> rustls::ClientConfig {
        let config = self.config().await.unwrap();
        let mut roots = rustls::RootCertStore::empty();
        for der in config.root_cert.unwrap() {
            roots.add(der.into()).unwrap();
        }
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
    }

    pub fn process(&self) -> Process {
        Process::of_pid(self.child.id())
    }

    pub fn resident_mb(&self) -> f64 {
        self.process().memory_kb(Memory::Resident) * KILOBYTE / 1e6
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        ended.expect("the server was there to be ended");
    }
}

fn get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).unwrap()
}

async fn post(client: &Client, path: &str, object: &Value) -> Value {
    let body = serde_json::to_vec(object).unwrap();
    let request = http::Request::post(path).header("content-type", "application/json");
    client.request(request.body(body).unwrap()).await.unwrap()
}
