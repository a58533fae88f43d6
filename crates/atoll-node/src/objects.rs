//! The ConfigMaps and Secrets that pods of this node refer to.
//!
//! Each is watched by name while some pod uses it (the Node authorizer allows no more), so
//! a change reaches its volumes at once.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use atoll_informer::{Informer, Key};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::volume::Plan;

/// An object whose watch has not delivered by then is asked for directly.
const SYNC_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds objects by name and keeps them watched.
pub struct Objects {
    client: Client,
    tasks: TaskTracker,
    config_maps: Pool<ConfigMap>,
    secrets: Pool<Secret>,
}

type Pool<K> = Mutex<HashMap<Key, Weak<Watched<K>>>>;

/// One object under watch; the watch ends with the last handle.
pub struct Watched<K> {
    key: Key,
    informer: Arc<Informer<K>>,
    subscribers: Mutex<Vec<Weak<Notify>>>,
    stop: CancellationToken,
}

impl<K> Drop for Watched<K> {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Keeps a pod's objects watched.
#[derive(Default)]
pub struct Held {
    /// The plans of the pod's claims: found once, they hold for the pod's life.
    pub(crate) persistent: BTreeMap<String, Plan>,
    config_maps: BTreeMap<String, Arc<Watched<ConfigMap>>>,
    secrets: BTreeMap<String, Arc<Watched<Secret>>>,
}

/// What a pod refers to, found.
#[derive(Debug, Default, Clone)]
pub struct Found {
    pub config_maps: BTreeMap<String, ConfigMap>,
    pub secrets: BTreeMap<String, Secret>,
}

impl Objects {
    #[must_use]
    pub fn new(client: Client, tasks: TaskTracker) -> Objects {
        Objects { client, tasks, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Fetches the named objects; those that do not exist are left out. `notify` is woken
    /// when one of them changes, as long as `held` lives.
    pub async fn fetch(
        &self,
        namespace: &str,
        config_maps: &[String],
        secrets: &[String],
        held: &mut Held,
        notify: &Arc<Notify>,
    ) -> Result<Found, kube::Error> {
        let mut found = Found::default();
        for name in config_maps {
            let watched = held
                .config_maps
                .entry(name.clone())
                .or_insert_with(|| self.watch(&self.config_maps, namespace, name, notify));
            if let Some(object) = self.read(watched).await? {
                found.config_maps.insert(name.clone(), object);
            }
        }
        for name in secrets {
            let watched = held
                .secrets
                .entry(name.clone())
                .or_insert_with(|| self.watch(&self.secrets, namespace, name, notify));
            if let Some(object) = self.read(watched).await? {
                found.secrets.insert(name.clone(), object);
            }
        }
        Ok(found)
    }

    fn watch<K>(
        &self,
        pool: &Pool<K>,
        namespace: &str,
        name: &str,
        notify: &Arc<Notify>,
    ) -> Arc<Watched<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let key = Key::new(namespace, name);
        let mut pool = lock(pool);
        pool.retain(|_, watched| watched.strong_count() > 0);
        let watched = pool.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let watched = Arc::new(Watched {
                key: key.clone(),
                informer: Informer::new(),
                subscribers: Mutex::default(),
                stop: CancellationToken::new(),
            });
            let weak = Arc::downgrade(&watched);
            watched.informer.on_change(move |_| {
                for subscriber in weak.upgrade().iter().flat_map(|w| lock(&w.subscribers).clone()) {
                    if let Some(notify) = subscriber.upgrade() {
                        notify.notify_one();
                    }
                }
            });
            let api = Api::namespaced(self.client.clone(), namespace);
            let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
            let run = watched.informer.clone().run(api, config, watched.stop.clone());
            self.tasks.spawn(run);
            pool.insert(key, Arc::downgrade(&watched));
            watched
        });
        let mut subscribers = lock(&watched.subscribers);
        subscribers.retain(|subscriber| subscriber.strong_count() > 0);
        subscribers.push(Arc::downgrade(notify));
        drop(subscribers);
        watched
    }

    async fn read<K>(&self, watched: &Watched<K>) -> Result<Option<K>, kube::Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        if tokio::time::timeout(SYNC_TIMEOUT, watched.informer.synced()).await.is_ok() {
            return Ok(watched.informer.get(&watched.key).map(|object| (*object).clone()));
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &watched.key.namespace);
        api.get_opt(&watched.key.name).await
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
