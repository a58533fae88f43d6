//! All pods of this node: who should be here (from the API, or from disk while it is
//! away), and a task for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{Event, Observed};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::checkpoint;
use crate::context::Context;
use crate::pod::admit::{self, Refusal};
use crate::pod::identity::{PodId, is_terminal};
use crate::pod::messages;
use crate::pod::refuse;
use crate::pod::sandbox::Leave;
use crate::pod::task::{self, Desired, PodHandle, Start};
use crate::rootless;

mod resizes;

use resizes::Wish;

/// How long a pod that the node's labels or taints keep away may hold up the others.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long pods get to end when the agent takes them along.
const REMOVE_ALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The node's pods by UID, for readers. A snapshot that changes as a whole.
#[derive(Clone)]
pub struct PodIndex(watch::Receiver<Arc<BTreeMap<String, PodHandle>>>);

impl PodIndex {
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<String, PodHandle>> {
        self.0.borrow().clone()
    }

    /// The pod of that name; of several (one is on its way out) the newest.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<PodHandle> {
        let all = self.all();
        let named = all.values().filter(|h| h.id.namespace == namespace && h.id.name == name);
        let created =
            |handle: &&PodHandle| handle.shown.borrow().pod.metadata.creation_timestamp.clone();
        named.max_by_key(created).cloned()
    }
}

/// Owns the tasks of all pods.
pub struct Pods {
    cx: Arc<Context>,
    index: watch::Sender<Arc<BTreeMap<String, PodHandle>>>,
    /// Containers found at the start whose pod has not been heard of yet.
    unclaimed: HashMap<String, Vec<Observed>>,
    listing: Option<BTreeMap<String, Arc<Pod>>>,
    /// A complete list has been seen: pods that are not in it are orphans.
    listed: watch::Sender<bool>,
    dirty: bool,
    pace: checkpoint::Pace,
    /// By UID, what pods ask for that was not allocated to them.
    wishes: BTreeMap<String, Wish>,
}

impl Pods {
    #[must_use]
    pub fn new(cx: Arc<Context>) -> (Pods, PodIndex) {
        let (index, receiver) = watch::channel(Arc::default());
        let pods = Pods {
            cx,
            index,
            unclaimed: HashMap::new(),
            listing: None,
            listed: watch::Sender::new(false),
            dirty: false,
            pace: checkpoint::Pace::default(),
            wishes: BTreeMap::new(),
        };
        (pods, PodIndex(receiver))
    }

    /// Whether a complete list of the node's pods has been seen.
    #[must_use]
    pub fn listed(&self) -> watch::Receiver<bool> {
        self.listed.subscribe()
    }

    /// Goes on with what is on disk, then follows the API until `stop`; when `remove` is
    /// cancelled instead, ends every pod and returns.
    pub async fn run(mut self, stop: CancellationToken, remove: CancellationToken) {
        self.adopt().await;
        let api: Api<Pod> = Api::all(self.cx.client.clone());
        let fields = format!("spec.nodeName={}", self.cx.config.node_name);
        let events = watcher(api, watcher::Config::default().fields(&fields)).default_backoff();
        let mut events = Box::pin(events);
        let mut runtime = self.cx.runtime.events();
        loop {
            let dirty = self.dirty;
            let due = if dirty { self.pace.due(Instant::now()) } else { Instant::now() };
            tokio::select! {
                () = stop.cancelled() => {
                    self.save();
                    return;
                }
                () = remove.cancelled() => {
                    self.save();
                    self.remove_all().await;
                    return;
                }
                event = events.next() => match event {
                    Some(Ok(event)) => self.on_api(event).await,
                    Some(Err(error)) => tracing::warn!(%error, "watching pods; will retry"),
                    None => return,
                },
                event = runtime.recv() => self.on_runtime(event),
                () = tokio::time::sleep_until(due), if dirty => self.save(),
                () = tokio::time::sleep(resizes::RETRY), if !self.wishes.is_empty() => {}
            }
            self.prune();
            self.retry_resizes();
        }
    }

    /// Containers that run and pods that were desired when the last agent stopped.
    async fn adopt(&mut self) {
        // An agent that was killed before a pod's first container has left the pod's folders.
        let config = &self.cx.config;
        for folder in [config.pods_dir(), config.run.join("ns"), config.logs_dir()] {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                // Folders of logs are called <namespace>_<name>_<uid>.
                let name = entry.file_name();
                if let Some(uid) = name.to_str().and_then(|name| name.rsplit('_').next()) {
                    self.unclaimed.entry(uid.to_owned()).or_default();
                }
            }
        }
        match self.cx.runtime.list().await {
            Ok(all) => {
                for observed in all {
                    let sandbox = observed.container.key.sandbox.clone();
                    self.unclaimed.entry(sandbox).or_default().push(observed);
                }
            }
            Err(error) => tracing::error!(%error, "the runtime's containers are not readable"),
        }
        match checkpoint::load(&self.cx.config.checkpoint()) {
            Ok(pods) => {
                for pod in pods {
                    self.want(pod, true).await;
                }
            }
            Err(error) => tracing::error!(%error, "going on without the pods on disk"),
        }
    }

    async fn on_api(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listing = Some(BTreeMap::new()),
            watcher::Event::InitApply(pod) => {
                if let Some(listing) = &mut self.listing {
                    let pod = slim(pod);
                    listing.insert(pod.uid().unwrap_or_default(), Arc::new(pod));
                }
            }
            watcher::Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.on_list(listed).await;
            }
            watcher::Event::Apply(pod) => self.want(Arc::new(slim(pod)), false).await,
            watcher::Event::Delete(pod) => self.forget(&pod.uid().unwrap_or_default()),
        }
        self.dirty = true;
    }

    async fn on_list(&mut self, listed: BTreeMap<String, Arc<Pod>>) {
        let known: Vec<String> = self.index.borrow().keys().cloned().collect();
        for uid in known.iter().filter(|uid| !listed.contains_key(*uid)) {
            self.forget(uid);
        }
        for pod in listed.into_values() {
            self.want(pod, false).await;
        }
        for (uid, containers) in std::mem::take(&mut self.unclaimed) {
            tracing::info!(uid, containers = containers.len(), "what a former pod left; removing");
            self.remove_orphan(uid);
        }
        self.listed.send_replace(true);
    }

    /// The pod is to be here, as it is now.
    async fn want(&mut self, pod: Arc<Pod>, from_disk: bool) {
        let Some(id) = PodId::of(&pod) else { return };
        let known = self.index.borrow().get(&id.uid).cloned();
        if let Some(handle) = known {
            self.update(&handle, pod);
            return;
        }
        let observed = self.unclaimed.remove(&id.uid).unwrap_or_default();
        // What has begun here has been admitted before.
        let begun = from_disk || !observed.is_empty() || is_terminal(&pod);
        let refused = if begun { None } else { self.refusal(&pod).await };
        tracing::info!(pod = %id, "pod added");
        let desired = Desired { pod, gone: false, halted: false, refused, pending: None };
        let handle = task::spawn(&self.cx, Start { desired, id: id.clone(), observed });
        self.change_index(|index| {
            index.insert(id.uid, handle);
        });
    }

    async fn refusal(&self, pod: &Arc<Pod>) -> Option<Refusal> {
        let refusal = match admit::other_system(pod).or_else(|| self.unsupported(pod)) {
            Some(refusal) => Some(refusal),
            None => self.admission(pod).await,
        };
        let Some(refusal) = refusal else {
            self.tell_shortcomings(pod);
            return None;
        };
        self.cx.warning(pod, &refusal.reason, refusal.message.clone());
        Some(refusal.rejected())
    }

    /// What is asked for that this node cannot do.
    fn unsupported(&self, pod: &Pod) -> Option<Refusal> {
        let mut fields = refuse::unsupported_fields(pod);
        if !self.cx.config.containers {
            let more = rootless::refuse::unsupported_fields(pod, &self.cx.allowed());
            fields.extend(
                more.into_iter().filter(|field| !fields.contains(field)).collect::<Vec<_>>(),
            );
        }
        let message = format!("this node does not support {}", fields.join(", "));
        let reason = messages::UNSUPPORTED_POD_SPEC.to_owned();
        (!fields.is_empty()).then_some(Refusal { reason, message })
    }

    /// Who put the pod here may have seen the node's labels and taints before this node has: they
    /// are asked for before they keep a pod away.
    async fn admission(&self, pod: &Pod) -> Option<Refusal> {
        let others = self.holders(&pod.uid().unwrap_or_default());
        let others: Vec<&Pod> = others.iter().map(AsRef::as_ref).collect();
        let judge = |node: Option<&Node>| admit::admit(pod, &others, &self.cx.room(), node);
        let known = self.cx.node();
        let refusal = judge(known.as_deref())?;
        if !admit::is_of_node(&refusal) {
            return Some(refusal);
        }
        let api: Api<Node> = Api::all(self.cx.client.clone());
        match tokio::time::timeout(NODE_TIMEOUT, api.get_opt(&self.cx.config.node_name)).await {
            Ok(Ok(node)) => judge(node.as_ref()),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the node's object not read; going by an older one");
                Some(refusal)
            }
            Err(_elapsed) => Some(refusal),
        }
    }

    /// What a pod that is welcome will have to do without.
    fn tell_shortcomings(&self, pod: &Pod) {
        if self.cx.config.containers {
            return;
        }
        let isolation = self.cx.runtime.capabilities().isolation;
        for (reason, message) in rootless::refuse::shortcomings(pod, isolation) {
            self.cx.warning(pod, reason, message);
        }
    }

    fn forget(&mut self, uid: &str) {
        if let Some(handle) = self.index.borrow().get(uid) {
            handle.desired.send_modify(|desired| desired.gone = true);
        }
        self.wishes.remove(uid);
    }

    fn remove_orphan(&self, uid: String) {
        let cx = self.cx.clone();
        let id = PodId { namespace: String::new(), name: String::new(), uid };
        self.cx.tasks.spawn(async move {
            if let Err(reason) = crate::pod::sandbox::tear_down(&cx, &id, Leave::Logs).await {
                tracing::warn!(uid = id.uid, reason, "orphaned containers not removed");
            }
            let suffix = format!("_{}", id.uid);
            for entry in std::fs::read_dir(cx.config.logs_dir()).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().ends_with(&suffix)
                    && let Err(error) = std::fs::remove_dir_all(entry.path())
                {
                    tracing::warn!(uid = id.uid, %error, "logs of a former pod not removed");
                }
            }
        });
    }

    fn on_runtime(&self, event: Result<Event, broadcast::error::RecvError>) {
        let index = self.index.borrow();
        match event {
            Ok(
                Event::Started { key }
                | Event::Exited { key, .. }
                | Event::Oom { key }
                | Event::ShimGone { key },
            ) => {
                if let Some(handle) = index.get(&key.sandbox) {
                    handle.notify.notify_one();
                }
            }
            // Some were missed: everybody looks.
            Err(broadcast::error::RecvError::Lagged(_)) => {
                index.values().for_each(|handle| handle.notify.notify_one());
            }
            Err(broadcast::error::RecvError::Closed) => {}
        }
    }

    /// Drops the handles of tasks that have ended.
    fn prune(&mut self) {
        let ended = |handle: &PodHandle| handle.desired.is_closed();
        if self.index.borrow().values().any(ended) {
            self.change_index(|index| index.retain(|_, handle| !ended(handle)));
            self.dirty = true;
        }
    }

    fn change_index(&self, change: impl FnOnce(&mut BTreeMap<String, PodHandle>)) {
        self.index.send_modify(|index| change(Arc::make_mut(index)));
    }

    fn save(&mut self) {
        let index = self.index.borrow().clone();
        let pods: Vec<Arc<Pod>> = index
            .values()
            .map(|handle| handle.desired.borrow().clone())
            .filter(|desired| !desired.gone)
            .map(|desired| desired.pod)
            .collect();
        let saved = checkpoint::save(&self.cx.config.checkpoint(), &pods);
        self.pace.attempted(&saved, Instant::now());
        self.dirty = saved.is_err();
    }

    /// Ends every pod without a word to the API, whose objects stay: so do records, logs and
    /// volumes, from which the next agent goes on as after a reboot.
    async fn remove_all(&mut self) {
        let index = self.index.borrow().clone();
        for handle in index.values() {
            handle.desired.send_modify(|desired| {
                desired.halted |= !desired.gone;
                desired.gone = true;
            });
        }
        let all = index.values().map(|handle| handle.desired.closed());
        let ended = futures::future::join_all(all);
        if tokio::time::timeout(REMOVE_ALL_TIMEOUT, ended).await.is_err() {
            tracing::error!("some pods did not end in time");
        }
    }
}

/// managedFields are the largest part of many pods, and nobody here reads them.
fn slim(mut pod: Pod) -> Pod {
    pod.metadata.managed_fields = None;
    pod
}
