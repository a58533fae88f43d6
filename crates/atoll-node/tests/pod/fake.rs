//! Fakes at the engines' trait boundaries, and an API server of one page.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use atoll_container::{
    Capabilities, CgroupVersion, ContainerKey, ContainerRef, ContainerSpec, Error, Event,
    ExecHandle, ExecSpec, Exit, Observed, Resources, Runtime, Sandbox, SandboxSpec, Scope, Signal,
    State, Stats, Streams,
};
use atoll_image::{Builtin, ImageConfig, ImageStore, RegistryConfig};
use atoll_informer::{Informer, Recorder};
use atoll_node::config::Config;
use atoll_node::context::Context;
use atoll_node::machine::Machine;
use atoll_node::network::{HostPort, NetworkError, PodNetwork};
use atoll_node::objects::Objects;
use atoll_node::volume::folders::Folders;
use atoll_node::volume::token::Tokens;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Mounting root file systems needs root; under CI that is no excuse.
pub(crate) fn needs_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    #[allow(clippy::disallowed_methods, reason = "tests ask whether they may be skipped")]
    let ci = std::env::var("CI").is_ok();
    assert!(!ci, "these tests need root");
    println!("skipped: needs root");
    true
}

pub(crate) fn exit(code: i32) -> Exit {
    let now = jiff::Timestamp::now();
    Exit { code, unknown: false, ..Exit::unknown(Some(now), now) }
}

pub(crate) fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": spec}))
    .unwrap()
}

/// A node with everything that a pod's task needs.
pub(crate) struct Node {
    pub(crate) cx: Arc<Context>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) network: Arc<FakeNetwork>,
    pub(crate) api: FakeApi,
    _dir: tempfile::TempDir,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cx.stop.cancel();
        atoll_node::volume::unmount_below(&self.cx.config.root).unwrap();
    }
}

impl Node {
    pub(crate) async fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::create_dir(&program).unwrap();
        let api = FakeApi::default();
        let client = api.client();
        let mut images = atoll_image::Config::new(dir.path().join("images"));
        images.builtin.push(Builtin {
            reference: "test.local/x:latest".into(),
            rootfs: program,
            config: ImageConfig { entrypoint: vec!["/program".into()], ..ImageConfig::default() },
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let runtime = Arc::new(FakeRuntime::new());
        let network = Arc::new(FakeNetwork::default());
        let config = config(dir.path(), client.clone());
        let cx = Context {
            images: ImageStore::open(images).await.unwrap(),
            machine: Machine::read(dir.path(), 110).unwrap(),
            recorder: Recorder::start(client.clone(), "kubelet", None, &tasks, stop.clone()),
            services: Informer::new(),
            nodes: Informer::new(),
            objects: Objects::new(client.clone(), tasks.clone()),
            tokens: Tokens::new(client.clone()),
            folders: Folders::start(client.clone(), dir.path(), tasks.clone(), stop.clone()),
            runtime: runtime.clone(),
            network: network.clone(),
            client,
            config,
            tasks,
            stop,
        };
        Node { cx: Arc::new(cx), runtime, network, api, _dir: dir }
    }
}

fn config(root: &Path, client: kube::Client) -> Config {
    Config {
        node_name: "node-1".into(),
        cluster_id: "test".into(),
        root: root.to_owned(),
        run: root.join("run"),
        node_ip: IpAddr::from([127, 0, 0, 1]),
        labels: BTreeMap::new(),
        client,
        servers: None,
        kubelet_tls: atoll_node::KubeletTls {
            certificate_chain: String::new(),
            key: String::new(),
            client_ca: String::new(),
        },
        kubelet_listen: "127.0.0.1:0".parse().unwrap(),
        cluster_domain: "cluster.local".into(),
        cluster_dns: IpAddr::from([10, 43, 0, 10]),
        service_cidr: "10.43.0.0/16".into(),
        pod_cidr: "10.42.0.0/16".into(),
        upstream_dns: Vec::new(),
        own_pod_cidr: None,
        builtin_images: Vec::new(),
        registry: RegistryConfig::default(),
        shim: PathBuf::new(),
        version: "test".into(),
        max_pods: 110,
        seccomp_default: false,
        containers: true,
        rootless: atoll_node::rootless::Rootless::default(),
    }
}

/// What every container uses.
pub(crate) const MEMORY_USED_BYTES: u64 = 8 << 20;

/// Keeps containers in memory; they run until a test ends them.
pub(crate) struct FakeRuntime {
    capabilities: Capabilities,
    containers: Mutex<BTreeMap<(String, u32), (ContainerSpec, State)>>,
    signals: Mutex<Vec<Signal>>,
    signalled: Mutex<Vec<String>>,
    removed: Mutex<usize>,
    halted: Mutex<usize>,
    cut_off: Mutex<Vec<String>>,
    updates: Mutex<Vec<(String, Resources)>>,
    events: broadcast::Sender<Event>,
}

impl FakeRuntime {
    fn new() -> FakeRuntime {
        FakeRuntime {
            capabilities: Capabilities {
                network_namespaces: true,
                cgroup: CgroupVersion::V2,
                overlay: true,
                seccomp: true,
                isolation: true,
                missing: Vec::new(),
            },
            containers: Mutex::default(),
            signals: Mutex::default(),
            signalled: Mutex::default(),
            removed: Mutex::default(),
            halted: Mutex::default(),
            cut_off: Mutex::default(),
            updates: Mutex::default(),
            events: broadcast::Sender::new(64),
        }
    }

    /// Specs made for a container, by attempt.
    pub(crate) fn created(&self, name: &str) -> Vec<ContainerSpec> {
        let containers = self.containers.lock().unwrap();
        let own = containers.iter().filter(|((n, _), _)| n == name);
        own.map(|(_, (spec, _))| spec.clone()).collect()
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        let containers = self.containers.lock().unwrap();
        containers
            .iter()
            .any(|((n, _), (_, state))| n == name && matches!(state, State::Running { .. }))
    }

    /// Ends the run that is going on.
    pub(crate) fn end(&self, name: &str, exit: Exit) {
        let mut containers = self.containers.lock().unwrap();
        let last = containers.iter_mut().rfind(|((n, _), _)| n == name);
        let ((_, attempt), (spec, state)) = last.unwrap();
        *state = State::Exited(exit.clone());
        let key =
            ContainerKey { sandbox: spec.sandbox.clone(), name: name.into(), attempt: *attempt };
        drop(self.events.send(Event::Exited { key, exit }));
    }

    pub(crate) fn signals(&self) -> Vec<Signal> {
        self.signals.lock().unwrap().clone()
    }

    /// Containers that were sent a signal, in order.
    pub(crate) fn signalled(&self) -> Vec<String> {
        self.signalled.lock().unwrap().clone()
    }

    /// Limits that were changed since the last call, in order: of a container, or of the `pod`.
    pub(crate) fn take_updates(&self) -> Vec<(String, Resources)> {
        std::mem::take(&mut self.updates.lock().unwrap())
    }

    pub(crate) fn sandboxes_halted(&self) -> usize {
        *self.halted.lock().unwrap()
    }

    /// Names of containers that the node itself was the end of.
    pub(crate) fn cut_off(&self) -> Vec<String> {
        self.cut_off.lock().unwrap().clone()
    }

    pub(crate) fn sandboxes_removed(&self) -> usize {
        *self.removed.lock().unwrap()
    }
}

fn reference(spec: &ContainerSpec) -> ContainerRef {
    ContainerRef {
        key: ContainerKey {
            sandbox: spec.sandbox.clone(),
            name: spec.name.clone(),
            attempt: spec.attempt,
        },
        id: spec.id.clone(),
        dir: "/nonexistent".into(),
    }
}

fn observed(spec: &ContainerSpec, state: &State) -> Observed {
    Observed {
        container: reference(spec),
        labels: spec.labels.clone(),
        log: spec.log.path.clone(),
        created_at: jiff::Timestamp::now(),
        state: state.clone(),
        shim_alive: true,
    }
}

fn unsupported(container: &ContainerRef) -> Error {
    Error::NotRunning { container: container.key.to_string() }
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn ensure_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, Error> {
        let net = Some("/proc/self/ns/net".into());
        Ok(Sandbox { uid: spec.uid.clone(), net, ipc: None, uts: None, pid: None, created: true })
    }

    async fn update_sandbox(&self, spec: &SandboxSpec) -> Result<(), Error> {
        self.updates.lock().unwrap().push(("pod".to_owned(), spec.resources.clone()));
        Ok(())
    }

    async fn remove_sandbox(&self, _uid: &str) -> Result<(), Error> {
        *self.removed.lock().unwrap() += 1;
        self.containers.lock().unwrap().clear();
        Ok(())
    }

    async fn halt_sandbox(&self, _uid: &str) -> Result<(), Error> {
        *self.halted.lock().unwrap() += 1;
        Ok(())
    }

    async fn cut_off(&self, containers: &[ContainerKey]) -> Result<(), Error> {
        assert!(containers.is_empty() || self.signals().is_empty(), "said before they end");
        self.cut_off.lock().unwrap().extend(containers.iter().map(|key| key.name.clone()));
        Ok(())
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<ContainerRef, Error> {
        let key = (spec.name.clone(), spec.attempt);
        self.containers.lock().unwrap().insert(key, (spec.clone(), State::Created));
        Ok(reference(spec))
    }

    async fn start(&self, container: &ContainerRef) -> Result<(), Error> {
        let key = (container.key.name.clone(), container.key.attempt);
        let state = State::Running { pid: 1, started_at: jiff::Timestamp::now() };
        self.containers.lock().unwrap().get_mut(&key).unwrap().1 = state;
        Ok(())
    }

    async fn signal(&self, to: &ContainerRef, signal: Signal, _: Scope) -> Result<(), Error> {
        self.signals.lock().unwrap().push(signal);
        self.signalled.lock().unwrap().push(to.key.name.clone());
        Ok(())
    }

    async fn exec(&self, container: &ContainerRef, _: ExecSpec) -> Result<ExecHandle, Error> {
        Err(unsupported(container))
    }

    async fn attach(&self, container: &ContainerRef, _: bool) -> Result<Streams, Error> {
        Err(unsupported(container))
    }

    async fn update(&self, container: &ContainerRef, limits: &Resources) -> Result<(), Error> {
        self.updates.lock().unwrap().push((container.key.name.clone(), limits.clone()));
        Ok(())
    }

    async fn stats(&self, _: &ContainerRef) -> Result<Stats, Error> {
        Ok(Stats { memory_usage_bytes: MEMORY_USED_BYTES, ..Stats::default() })
    }

    async fn remove(&self, _: &ContainerRef) -> Result<(), Error> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        let containers = self.containers.lock().unwrap();
        Ok(containers.values().map(|(spec, state)| observed(spec, state)).collect())
    }

    async fn inspect(&self, key: &ContainerKey) -> Result<Option<Observed>, Error> {
        let containers = self.containers.lock().unwrap();
        let found = containers.get(&(key.name.clone(), key.attempt));
        Ok(found.map(|(spec, state)| observed(spec, state)))
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

/// Gives every sandbox the same address.
#[derive(Default)]
pub(crate) struct FakeNetwork {
    detached: Mutex<Vec<String>>,
}

impl FakeNetwork {
    pub(crate) fn detached(&self) -> Vec<String> {
        self.detached.lock().unwrap().clone()
    }
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn attach(&self, _: &str, _: &Path, _: &[HostPort]) -> Result<IpAddr, NetworkError> {
        Ok(IpAddr::from([10, 42, 0, 7]))
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.detached.lock().unwrap().push(uid.to_owned());
        Ok(())
    }
}

/// Remembers statuses and deletions; has no object but the pod.
#[derive(Clone, Default)]
pub(crate) struct FakeApi {
    statuses: Arc<Mutex<Vec<Value>>>,
    deleted: Arc<Mutex<bool>>,
}

impl FakeApi {
    pub(crate) fn last_status(&self) -> Option<Value> {
        self.statuses.lock().unwrap().last().cloned()
    }

    pub(crate) fn statuses(&self) -> Vec<Value> {
        self.statuses.lock().unwrap().clone()
    }

    pub(crate) fn was_deleted(&self) -> bool {
        *self.deleted.lock().unwrap()
    }

    fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}});
        if parts.method == Method::PATCH && path.ends_with("/pods/p/status") {
            let bytes = body.collect().await.unwrap().to_bytes();
            let patch: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(patch["metadata"]["uid"], "u", "a namesake must not be touched");
            self.statuses.lock().unwrap().push(patch["status"].clone());
            return json_answer(200, &pod);
        }
        if parts.method == Method::DELETE && path.ends_with("/pods/p") {
            *self.deleted.lock().unwrap() = true;
            return json_answer(200, &pod);
        }
        if parts.method == Method::GET && path.ends_with("s") {
            let list = json!({"kind": "List", "apiVersion": "v1", "items": [],
                "metadata": {"resourceVersion": "1"}});
            return json_answer(200, &list);
        }
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": "NotFound", "code": 404, "message": "not found"});
        json_answer(404, &status)
    }
}

fn json_answer(code: u16, value: &Value) -> Response<Body> {
    let body = Body::from(value.to_string().into_bytes());
    Response::builder().status(code).body(body).unwrap()
}
