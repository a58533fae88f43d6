//! Gives each replica of a StatefulSet a name, a place in order and claims of its own.
//!
//! [`plan`] decides which pods to create, delete and replace; [`history`] keeps the templates.
//! Rules and texts are kube-controller-manager's.

mod claims;
mod identity;
mod plan;
mod status;

use crate::{
    claim::claim,
    error::{Error, failed, words},
    failures::Failures,
    history::{self, History},
    launch::{launch, on_each},
    pod_control::{PodControl, at_once, slowly},
    selector,
    shared::{BY_OWNER, ClientFor, Shared, controller_of},
};
use atoll_informer::{Change, Key, Outcome, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{StatefulSet, StatefulSetSpec},
    core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use plan::{At, Scene, Step, Task};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// StatefulSets worked on at once.
const WORKERS: usize = 4;
/// Upstream's name for its controller.
const ACCOUNT: &str = "statefulset-controller";
/// Carries the hash of a revision.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// Old revisions kept for undo when the StatefulSet does not say.
const HISTORY_DEFAULT: i32 = 10;

struct Controller {
    shared: Arc<Shared>,
    pods: PodControl,
    failures: Failures,
}

/// What a pass knows of its StatefulSet.
struct Pass<'a> {
    set: &'a StatefulSet,
    spec: &'a StatefulSetSpec,
    history: &'a History,
    /// The template that pods below the partition are made of.
    current: Option<PodTemplateSpec>,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue = WorkQueue::new();
    let controller = Arc::new(Controller {
        shared: shared.clone(),
        pods: PodControl::start(clients, ACCOUNT, tasks, stop),
        failures: Failures::default(),
    });
    let forgetting = controller.clone();
    shared.stateful_sets.on_change(move |change: &Change<'_, StatefulSet>| {
        if let (Some(gone), None) = (change.old, change.new) {
            let uid = gone.uid().unwrap_or_default();
            forgetting.pods.expectations.forget(&uid);
            forgetting.failures.forget(&uid);
        }
    });
    on_each(&shared.stateful_sets, &queue);
    let (owners, watching) = (queue.clone(), controller.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| watching.on_pod(change, &owners));
    let (owners, all) = (queue.clone(), shared.clone());
    // A pod may wait for a claim of old to go.
    shared.claims.on_change(move |change: &Change<'_, PersistentVolumeClaim>| {
        if let (Some(gone), None) = (change.old, change.new) {
            for set in all.stateful_sets.in_namespace(&gone.namespace().unwrap_or_default()) {
                if claims::is_of(&set, &gone.name_any()) {
                    owners.add(Key::of(set.as_ref()));
                }
            }
        }
    });
    launch("statefulset", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    fn on_pod(&self, change: &Change<'_, Pod>, queue: &WorkQueue<Key>) {
        self.pods.expectations.tell_owners("StatefulSet", change, queue);
        if let Some(orphan) = change.new.filter(|pod| controller_of(pod.as_ref()).is_none()) {
            let namespace = orphan.namespace().unwrap_or_default();
            for set in self.shared.stateful_sets.in_namespace(&namespace) {
                let spec = set.spec.as_ref();
                let selected =
                    spec.is_some_and(|spec| selector::matches(&spec.selector, orphan.labels()));
                if selected && identity::ordinal_of(&set, orphan).is_some() {
                    queue.add(Key::of(set.as_ref()));
                }
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(set) = self.shared.stateful_sets.get(key) else { return Ok(Outcome::Done) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Outcome::Done) };
        // What is being deleted is left to the garbage collector.
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let pods = self.owned(&set, spec).await?;
        let history = self.history(&set, spec).await?;
        let known = set.status.as_ref().and_then(|status| status.current_revision.as_deref());
        let current = history
            .all
            .iter()
            .find(|one| one.metadata.name.as_deref() == known)
            .unwrap_or(&history.present);
        let (current_name, update_name) = (current.name_any(), history.present.name_any());
        let claim = |name: &str| self.shared.claims.get(&Key::new(&key.namespace, name));
        let uid = set.uid().unwrap_or_default();
        let held = |pod: &str| self.failures.left(&uid, set.metadata.generation, pod);
        let scene = Scene {
            set: &set,
            pods,
            current: &current_name,
            update: &update_name,
            claim: &claim,
            held: &held,
            now: Timestamp::now(),
        };
        let pass =
            Pass { set: &set, spec, history: &history, current: history::template_of(current) };
        let patience = self.pods.expectations.unmet(&uid);
        let (mut failure, mut retired, mut retry) = (None, 0, None);
        // Until the cache has seen our own last writes, deciding would repeat them.
        if patience.is_none() {
            let plan = plan::plan(&scene);
            (retired, retry) = (plan.retired, plan.retry);
            failure = self.carry_out(&pass, plan.phases).await.err();
        }
        status::write(&self.pods.client, &scene, history.collisions, retired).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        self.forget(&pass, &scene).await?;
        let next = patience.or(retry);
        Ok(next.map_or_else(|| status::next_look(&scene), Outcome::After))
    }

    async fn history(&self, set: &StatefulSet, spec: &StatefulSetSpec) -> Result<History, Error> {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let owner = history::Owner {
            object: set,
            selector: &spec.selector,
            template: &spec.template,
            collisions: collisions.unwrap_or(0),
            hash_label: HASH_LABEL,
        };
        history::keep(&self.pods.client, &self.shared.revisions, &owner).await
    }

    async fn forget(&self, pass: &Pass<'_>, scene: &Scene<'_>) -> Result<(), Error> {
        let pods = scene.pods.values().filter_map(|pod| identity::revision_of(pod));
        let mut live: BTreeSet<String> = pods.map(str::to_owned).collect();
        live.extend([scene.current.to_owned(), scene.update.to_owned()]);
        let limit = pass.spec.revision_history_limit.unwrap_or(HISTORY_DEFAULT);
        history::forget(&self.pods.client, pass.history, &live, limit).await
    }

    async fn owned(
        &self,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
    ) -> Result<BTreeMap<i32, Arc<Pod>>, Error> {
        let Some(owner) = set.controller_owner_ref(&()) else { return Ok(BTreeMap::new()) };
        let namespace = set.namespace().unwrap_or_default();
        let mut candidates = self.shared.pods.indexed(BY_OWNER, &owner.uid);
        let others = self.shared.pods.in_namespace(&namespace).into_iter();
        candidates.extend(others.filter(|pod| controller_of(pod.as_ref()).is_none()));
        candidates.retain(|pod| identity::ordinal_of(set, pod).is_some());
        let client = self.pods.client.clone();
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let owners: Api<StatefulSet> = Api::namespaced(client, &namespace);
        let pods = claim(&api, candidates, &owners, &owner, false, &spec.selector).await?;
        let by_ordinal = pods.into_iter();
        Ok(by_ordinal.filter_map(|pod| Some((identity::ordinal_of(set, &pod)?, pod))).collect())
    }

    /// A phase begins when the one before has succeeded.
    async fn carry_out(&self, pass: &Pass<'_>, phases: Vec<Vec<Task>>) -> Result<(), Error> {
        let ordered = plan::is_ordered(pass.spec);
        for tasks in phases {
            let creates = tasks.iter().flatten().any(|step| matches!(step, Step::Create { .. }));
            let work = |task: Task| self.task(pass, task);
            if ordered {
                for task in tasks {
                    work(task).await?;
                }
            } else if creates {
                slowly(tasks, work).await?;
            } else {
                at_once(tasks, work).await?;
            }
        }
        Ok(())
    }

    async fn task(&self, pass: &Pass<'_>, task: Task) -> Result<(), Error> {
        for step in task {
            self.step(pass, step).await?;
        }
        Ok(())
    }

    async fn step(&self, pass: &Pass<'_>, step: Step) -> Result<(), Error> {
        let set = pass.set;
        match step {
            Step::Claim { claim, pod } => self.create_claim(set, &claim, &pod).await,
            Step::Own { claim, patch } => {
                let api: Api<PersistentVolumeClaim> = self.api(set);
                let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
                let patched = api.patch(&claim, &params, &patch).await.map(drop);
                patched.map_err(failed("setting the owners of", "persistentvolumeclaim", claim))
            }
            Step::Label { pod, patch } => {
                let api: Api<Pod> = self.api(set);
                let patched = api.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await;
                self.record(set, "update", &pod, patched.as_ref().err());
                patched.map(drop).map_err(failed("labelling", "pod", pod))
            }
            Step::Create { ordinal, at } => self.create(pass, ordinal, at).await,
            Step::Delete { pod, uid } => self.delete(set, pod, &uid).await,
            Step::Clear { pod, uid } => {
                let owner = set.uid().unwrap_or_default();
                self.failures.count(&owner, set.metadata.generation, &pod);
                self.delete(set, pod, &uid).await
            }
            Step::Refuse { pod, why } => {
                let name = set.name_any();
                let text = format!("create Pod {pod} in StatefulSet {name} failed error: {why}");
                self.pods.recorder.warning(set, "FailedCreate", text);
                Err(Error::Stale { what: why })
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: String, uid: &str) -> Result<(), Error> {
        let deleted = self.pods.delete_quietly(set, &pod, uid).await;
        self.record(set, "delete", &pod, deleted.as_ref().err());
        deleted.map_err(failed("deleting", "pod", pod))
    }

    async fn create(&self, pass: &Pass<'_>, ordinal: i32, at: At) -> Result<(), Error> {
        let (set, history) = (pass.set, pass.history);
        let old = pass.current.as_ref().filter(|_| at == At::Current);
        let template = old.unwrap_or(&pass.spec.template).clone();
        let known = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let revision = old.and(known).unwrap_or_else(|| history.present.name_any());
        let pod = identity::pod(set, pass.spec, template, ordinal, &revision);
        let name = pod.name_any();
        let created = self.pods.create_quietly(set, &pod).await;
        match &created {
            Ok(None) => return Ok(()),
            // The cache does not show it yet, or it is not ours: the next look decides.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => self.record(set, "create", &name, other.as_ref().err()),
        }
        created.map(drop).map_err(failed("creating", "pod", name))
    }

    async fn create_claim(
        &self,
        set: &StatefulSet,
        claim: &PersistentVolumeClaim,
        pod: &str,
    ) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> = self.api(set);
        let (name, owner) = (claim.name_any(), set.name_any());
        match api.create(&PostParams::default(), claim).await {
            Ok(_) => {
                let text = format!("create Claim {name} Pod {pod} in StatefulSet {owner} success");
                self.pods.recorder.normal(set, "SuccessfulCreate", text);
                Ok(())
            }
            // It is there, and what it is like is its user's business.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => {
                let words = words(&error);
                let text = format!(
                    "create Claim {name} for Pod {pod} in StatefulSet {owner} failed error: {words}"
                );
                self.pods.recorder.warning(set, "FailedCreate", text);
                Err(failed("creating", "persistentvolumeclaim", name)(error))
            }
        }
    }

    fn api<K>(&self, set: &StatefulSet) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.pods.client.clone(), &set.namespace().unwrap_or_default())
    }

    fn record(&self, set: &StatefulSet, verb: &str, pod: &str, error: Option<&kube::Error>) {
        let (what, name) = (format!("{verb} Pod {pod} in StatefulSet"), set.name_any());
        let mut reason = verb.to_owned();
        reason[..1].make_ascii_uppercase();
        match error {
            None => {
                let text = format!("{what} {name} successful");
                self.pods.recorder.normal(set, &format!("Successful{reason}"), text);
            }
            Some(error) => {
                let text = format!("{what} {name} failed error: {}", words(error));
                self.pods.recorder.warning(set, &format!("Failed{reason}"), text);
            }
        }
    }
}
