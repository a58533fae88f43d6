//! Gives every namespace what its pods need from the start: the ServiceAccount `default`
//! and the ConfigMap `kube-root-ca.crt` with the authority of the API.

use crate::{
    error::{Error, failed},
    launch::launch,
    shared::{ClientFor, MANAGER, Shared},
};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const ROOT_CA: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

struct Controller {
    accounts: Client,
    publisher: Client,
    shared: Arc<Shared>,
    root_cas: Arc<Informer<ConfigMap>>,
    root_ca_pem: String,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    root_ca_pem: &str,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let root_cas: Arc<Informer<ConfigMap>> = Informer::new();
    let controller = Arc::new(Controller {
        accounts: clients("service-account-controller"),
        publisher: clients("root-ca-cert-publisher"),
        shared: shared.clone(),
        root_cas: root_cas.clone(),
        root_ca_pem: root_ca_pem.to_owned(),
    });
    let namespaces = queue.clone();
    shared.namespaces.on_change(move |change: &Change<'_, Namespace>| {
        if let Some(namespace) = change.new {
            namespaces.add(Key::new("", namespace.name_any()));
        }
    });
    let accounts = queue.clone();
    shared.service_accounts.on_change(move |change: &Change<'_, ServiceAccount>| {
        if let (Some(gone), None) = (change.old, change.new) {
            accounts.add(Key::new("", gone.namespace().unwrap_or_default()));
        }
    });
    let maps = queue.clone();
    root_cas.on_change(move |change: &Change<'_, ConfigMap>| {
        if let Some(map) = change.object() {
            maps.add(Key::new("", map.namespace().unwrap_or_default()));
        }
    });
    let only_ours = watcher::Config::default().fields(&format!("metadata.name={ROOT_CA}"));
    tasks.spawn(root_cas.run(Api::all(clients(MANAGER)), only_ours, stop.clone()));
    launch("serviceaccount", 2, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(namespace) = self.shared.namespaces.get(key) else { return Ok(Outcome::Done) };
        if namespace.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        self.ensure_account(&key.name).await?;
        self.root_cas.synced().await;
        self.ensure_root_ca(&key.name).await?;
        Ok(Outcome::Done)
    }

    async fn ensure_account(&self, namespace: &str) -> Result<(), Error> {
        if self.shared.service_accounts.get(&Key::new(namespace, "default")).is_some() {
            return Ok(());
        }
        let account =
            ServiceAccount { metadata: named(namespace, "default"), ..Default::default() };
        let api: Api<ServiceAccount> = Api::namespaced(self.accounts.clone(), namespace);
        let created = exists_is_fine(api.create(&PostParams::default(), &account).await);
        created.map_err(failed("creating", "serviceaccount", format!("{namespace}/default")))
    }

    async fn ensure_root_ca(&self, namespace: &str) -> Result<(), Error> {
        let wanted = BTreeMap::from([("ca.crt".to_owned(), self.root_ca_pem.clone())]);
        let api: Api<ConfigMap> = Api::namespaced(self.publisher.clone(), namespace);
        let name = || format!("{namespace}/{ROOT_CA}");
        match self.root_cas.get(&Key::new(namespace, ROOT_CA)) {
            Some(known) if known.data.as_ref() == Some(&wanted) => Ok(()),
            Some(known) => {
                // Nothing else stands in it.
                let others = known.data.iter().flat_map(BTreeMap::keys).map(|key| (key, None));
                let mut whole: BTreeMap<&String, Option<&String>> = others.collect();
                whole.extend(wanted.iter().map(|(key, value)| (key, Some(value))));
                let patch = Patch::Merge(serde_json::json!({ "data": whole }));
                let patched = api.patch(ROOT_CA, &PatchParams::default(), &patch).await;
                patched.map_err(failed("updating", "configmap", name()))?;
                Ok(())
            }
            None => {
                let mut metadata = named(namespace, ROOT_CA);
                metadata.annotations = Some(BTreeMap::from([(
                    "kubernetes.io/description".to_owned(),
                    DESCRIPTION.to_owned(),
                )]));
                let map = ConfigMap { metadata, data: Some(wanted), ..ConfigMap::default() };
                let created = exists_is_fine(api.create(&PostParams::default(), &map).await);
                created.map_err(failed("creating", "configmap", name()))
            }
        }
    }
}

fn named(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectMeta::default()
    }
}

fn exists_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
