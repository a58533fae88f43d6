//! The caches that several controllers read, and the identity each controller writes with.

use atoll_informer::Informer;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{
            Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, ReplicationController, Service,
            ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Api, Client, ResourceExt, runtime::watcher};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Makes a client that acts as the named controller, so that RBAC can bound each of them.
pub type ClientFor = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// Whom the informers act as: it may read every kind.
pub(crate) const MANAGER: &str = "kube-controller-manager";

/// The label with the uid of the Job that made a pod.
pub(crate) const JOB_UID: &str = "batch.kubernetes.io/controller-uid";

/// Pods, ReplicaSets, Jobs and ControllerRevisions by the uid of their controller; a pod without
/// one by that of the Job that made it.
pub(crate) const BY_OWNER: usize = 0;
/// Pods by the node they are bound to.
pub(crate) const BY_NODE: usize = 1;

/// One informer for each kind that more than one controller reads.
pub(crate) struct Shared {
    pub(crate) pods: Arc<Informer<Pod>>,
    pub(crate) replica_sets: Arc<Informer<ReplicaSet>>,
    pub(crate) deployments: Arc<Informer<Deployment>>,
    pub(crate) stateful_sets: Arc<Informer<StatefulSet>>,
    pub(crate) daemon_sets: Arc<Informer<DaemonSet>>,
    pub(crate) replication_controllers: Arc<Informer<ReplicationController>>,
    pub(crate) revisions: Arc<Informer<ControllerRevision>>,
    pub(crate) claims: Arc<Informer<PersistentVolumeClaim>>,
    pub(crate) jobs: Arc<Informer<Job>>,
    pub(crate) cron_jobs: Arc<Informer<CronJob>>,
    pub(crate) budgets: Arc<Informer<PodDisruptionBudget>>,
    pub(crate) services: Arc<Informer<Service>>,
    pub(crate) slices: Arc<Informer<EndpointSlice>>,
    pub(crate) endpoints: Arc<Informer<Endpoints>>,
    pub(crate) nodes: Arc<Informer<Node>>,
    pub(crate) namespaces: Arc<Informer<Namespace>>,
    pub(crate) service_accounts: Arc<Informer<ServiceAccount>>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            pods: Informer::with_indexes(&[by_owner_or_maker, by_node]),
            replica_sets: Informer::with_indexes(&[by_owner::<ReplicaSet>]),
            deployments: Informer::new(),
            stateful_sets: Informer::new(),
            daemon_sets: Informer::new(),
            replication_controllers: Informer::new(),
            revisions: Informer::with_indexes(&[by_owner::<ControllerRevision>]),
            claims: Informer::new(),
            jobs: Informer::with_indexes(&[by_owner::<Job>]),
            cron_jobs: Informer::new(),
            budgets: Informer::new(),
            services: Informer::new(),
            slices: Informer::with_indexes(&[by_service]),
            endpoints: Informer::new(),
            nodes: Informer::new(),
            namespaces: Informer::new(),
            service_accounts: Informer::new(),
        })
    }

    /// Starts listing and watching. Handlers are registered before, so that none misses
    /// the first list.
    pub(crate) fn run(&self, client: &Client, tasks: &TaskTracker, stop: &CancellationToken) {
        macro_rules! run {
            ($($informer:ident),*) => {$(
                tasks.spawn(self.$informer.clone().run(
                    Api::all(client.clone()),
                    watcher::Config::default(),
                    stop.clone(),
                ));
            )*};
        }
        run!(pods, replica_sets, deployments, services, slices, endpoints);
        run!(stateful_sets, daemon_sets, replication_controllers, revisions, claims);
        run!(jobs, cron_jobs, budgets);
        run!(nodes, namespaces, service_accounts);
    }

    pub(crate) async fn synced(&self) {
        self.pods.synced().await;
        self.replica_sets.synced().await;
        self.deployments.synced().await;
        self.stateful_sets.synced().await;
        self.daemon_sets.synced().await;
        self.replication_controllers.synced().await;
        self.revisions.synced().await;
        self.claims.synced().await;
        self.jobs.synced().await;
        self.cron_jobs.synced().await;
        self.budgets.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.endpoints.synced().await;
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.service_accounts.synced().await;
    }
}

/// The owner reference whose `controller` is set.
pub(crate) fn controller_of<K: ResourceExt>(object: &K) -> Option<&OwnerReference> {
    object.owner_references().iter().find(|owner| owner.controller == Some(true))
}

fn by_owner<K: ResourceExt>(object: &K) -> Vec<String> {
    controller_of(object).map(|owner| owner.uid.clone()).into_iter().collect()
}

/// A pod that lost its owner still says which Job has made it, and is found by that.
fn by_owner_or_maker(pod: &Pod) -> Vec<String> {
    let owners = by_owner(pod);
    let maker = pod.labels().get(JOB_UID).filter(|_| owners.is_empty());
    owners.into_iter().chain(maker.cloned()).collect()
}

fn by_node(pod: &Pod) -> Vec<String> {
    pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()
}

fn by_service(slice: &EndpointSlice) -> Vec<String> {
    let name = slice.labels().get("kubernetes.io/service-name");
    name.map(|name| format!("{}/{name}", slice.namespace().unwrap_or_default()))
        .into_iter()
        .collect()
}
