//! Fills Secrets of type `kubernetes.io/service-account-token`: what somebody creates who wants a
//! token that does not expire (kube-controller-manager's `serviceaccount-token-controller`).
//! They go with their account.

use crate::{
    error::{Error, failed, gone_is_fine},
    launch::{launch, on_each},
    shared::{ClientFor, MANAGER, Shared},
};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue};
use k8s_openapi::{
    ByteString,
    api::core::v1::{Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    runtime::watcher,
};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Keys of the Secret.
const TOKEN: &str = "token";
const ROOT_CA: &str = "ca.crt";
const NAMESPACE: &str = "namespace";

/// Which token is wanted.
#[derive(Debug, Clone, Copy)]
pub struct SecretToken<'a> {
    pub namespace: &'a str,
    pub secret: &'a str,
    pub account: &'a str,
    pub account_uid: &'a str,
}

/// Signs one, or says why it cannot.
pub type SignToken = Arc<dyn Fn(&SecretToken<'_>) -> Result<String, String> + Send + Sync>;

struct Controller {
    client: Client,
    sign: SignToken,
    root_ca_pem: String,
    secrets: Arc<Informer<Secret>>,
    shared: Arc<Shared>,
}

pub(crate) fn start(
    clients: &ClientFor,
    sign: &SignToken,
    root_ca_pem: &str,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let secrets: Arc<Informer<Secret>> = Informer::new();
    on_each(&secrets, &queue);
    let (of_account, known) = (queue.clone(), secrets.clone());
    shared.service_accounts.on_change(move |change: &Change<'_, ServiceAccount>| {
        let Some(account) = change.object() else { return };
        for secret in known.in_namespace(&account.namespace().unwrap_or_default()) {
            if secret.annotations().get(ACCOUNT) == Some(&account.name_any()) {
                of_account.add(Key::of(secret.as_ref()));
            }
        }
    });
    let controller = Arc::new(Controller {
        client: clients(MANAGER),
        sign: sign.clone(),
        root_ca_pem: root_ca_pem.to_owned(),
        secrets: secrets.clone(),
        shared: shared.clone(),
    });
    let only_ours = watcher::Config::default().fields(&format!("type={TYPE}"));
    tasks.spawn(secrets.run(Api::all(clients(MANAGER)), only_ours, stop.clone()));
    launch("serviceaccount-token", 1, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Outcome::Done) };
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(account) = self.account(&secret, key).await? else {
            let preconditions = Preconditions { uid: secret.uid(), ..Preconditions::default() };
            let params = DeleteParams::default().preconditions(preconditions);
            let deleted = gone_is_fine(api.delete(&key.name, &params).await);
            deleted.map_err(failed("deleting", "secret", key.to_string()))?;
            return Ok(Outcome::Done);
        };
        if let Some(filled) = self.filled(&secret, &account, key)? {
            let written = api.replace(&key.name, &PostParams::default(), &filled).await;
            written.map_err(failed("filling", "secret", key.to_string()))?;
        }
        Ok(Outcome::Done)
    }

    /// The account that the Secret names, asked of the API where the cache does not have it.
    async fn account(
        &self,
        secret: &Secret,
        key: &Key,
    ) -> Result<Option<Arc<ServiceAccount>>, Error> {
        let name = secret.annotations().get(ACCOUNT).cloned().unwrap_or_default();
        let uid = secret.annotations().get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
        let is_it = |account: &ServiceAccount| uid.is_none() || account.uid().as_ref() == uid;
        let cached = self.shared.service_accounts.get(&Key::new(&key.namespace, &name));
        if let Some(account) = cached.filter(|account| is_it(account)) {
            return Ok(Some(account));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        let found = api.get_opt(&name).await;
        let found = found.map_err(failed("reading", "serviceaccount", name))?;
        Ok(found.filter(is_it).map(Arc::new))
    }

    /// The Secret with all that belongs into it; `None` when it is there.
    fn filled(
        &self,
        secret: &Secret,
        account: &ServiceAccount,
        key: &Key,
    ) -> Result<Option<Secret>, Error> {
        let mut filled = secret.clone();
        let entries = filled.data.get_or_insert_with(BTreeMap::new);
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        entries.insert(ROOT_CA.to_owned(), bytes(&self.root_ca_pem));
        let is_empty = |entries: &BTreeMap<String, ByteString>, name: &str| {
            entries.get(name).is_none_or(|value| value.0.is_empty())
        };
        if is_empty(entries, NAMESPACE) {
            entries.insert(NAMESPACE.to_owned(), bytes(&key.namespace));
        }
        let (name, uid) = (account.name_any(), account.uid().unwrap_or_default());
        if is_empty(entries, TOKEN) {
            let wanted = SecretToken {
                namespace: &key.namespace,
                secret: &key.name,
                account: &name,
                account_uid: &uid,
            };
            let token = (self.sign)(&wanted).map_err(|problem| Error::Object {
                kind: "secret",
                name: key.to_string(),
                problem: format!("no token: {problem}"),
            })?;
            entries.insert(TOKEN.to_owned(), bytes(&token));
        }
        let annotations = filled.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(ACCOUNT.to_owned(), name);
        annotations.insert(ACCOUNT_UID.to_owned(), uid);
        Ok((filled != *secret).then_some(filled))
    }
}
