//! Keeps a [`Cache`] equal to what the API has, and tells subscribers of each change.
//!
//! Handlers run on the informer's task and only note what to do (they fill work queues);
//! they never wait.

use crate::cache::{Cache, Change, IndexFn, Key};
use futures::{Stream, StreamExt};
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, RwLock},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// One kind's objects, shared by all who read them.
pub struct Informer<K> {
    cache: RwLock<Cache<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

impl<K> Informer<K>
where
    K: kube::Resource + ResourceExt + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    pub fn new() -> Arc<Self> {
        Self::with_indexes(&[])
    }

    /// `indexes` name, for an object, the values by which [`Informer::indexed`] finds it.
    pub fn with_indexes(indexes: &[fn(&K) -> Vec<String>]) -> Arc<Self> {
        Arc::new(Self {
            cache: RwLock::new(Cache::new(indexes as &[IndexFn<K>])),
            handlers: RwLock::new(Vec::new()),
            synced: watch::Sender::new(false),
        })
    }

    /// Calls `handler` for every later change. It must not block.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        write(&self.handlers).push(Box::new(handler));
    }

    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        read(&self.cache).get(key).cloned()
    }

    pub fn list(&self) -> Vec<Arc<K>> {
        read(&self.cache).iter().map(|(_, object)| object.clone()).collect()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        read(&self.cache).in_namespace(namespace).cloned().collect()
    }

    pub fn indexed(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        read(&self.cache).indexed(index, value)
    }

    /// Returns once the first complete list is in the cache.
    pub async fn synced(&self) {
        let mut receiver = self.synced.subscribe();
        // The sender lives in self, so this cannot fail while we hold it.
        if receiver.wait_for(|synced| *synced).await.is_err() {
            debug!("informer dropped before it was synced");
        }
    }

    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Lists and watches until cancelled. Errors of the API are retried with backoff.
    pub async fn run(
        self: Arc<Self>,
        api: Api<K>,
        config: watcher::Config,
        stop: CancellationToken,
    ) {
        let events = watcher(api, config).default_backoff();
        self.consume(events, stop).await;
    }

    async fn consume(
        &self,
        events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send,
        stop: CancellationToken,
    ) {
        let mut events = Box::pin(events);
        let mut listing: BTreeMap<Key, Arc<K>> = BTreeMap::new();
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = events.next() => event,
            };
            match event {
                Some(Ok(event)) => self.on_event(event, &mut listing),
                Some(Err(error)) => {
                    warn!(kind = std::any::type_name::<K>(), %error, "watch failed; retrying");
                }
                None => return,
            }
        }
    }

    fn on_event(&self, event: watcher::Event<K>, listing: &mut BTreeMap<Key, Arc<K>>) {
        match event {
            watcher::Event::Init => listing.clear(),
            watcher::Event::InitApply(object) => {
                listing.insert(Key::of(&object), Arc::new(slim(object)));
            }
            watcher::Event::InitDone => {
                self.replace(std::mem::take(listing));
                self.synced.send_replace(true);
            }
            watcher::Event::Apply(object) => self.store(Arc::new(slim(object))),
            watcher::Event::Delete(object) => self.forget(&Key::of(&object)),
        }
    }

    fn replace(&self, listed: BTreeMap<Key, Arc<K>>) {
        let gone: Vec<Key> = read(&self.cache)
            .iter()
            .filter(|(key, _)| !listed.contains_key(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.forget(&key);
        }
        for object in listed.into_values() {
            let unchanged = self
                .get(&Key::of(object.as_ref()))
                .is_some_and(|known| known.resource_version() == object.resource_version());
            if !unchanged {
                self.store(object);
            }
        }
    }

    fn store(&self, object: Arc<K>) {
        // A namesake that a list shows in place of a deleted object is another object.
        let key = Key::of(object.as_ref());
        if self.get(&key).is_some_and(|known| known.uid() != object.uid()) {
            self.forget(&key);
        }
        let old = write(&self.cache).insert(object.clone());
        self.notify(&Change { old: old.as_ref(), new: Some(&object) });
    }

    fn forget(&self, key: &Key) {
        let old = write(&self.cache).remove(key);
        if old.is_some() {
            self.notify(&Change { old: old.as_ref(), new: None });
        }
    }

    fn notify(&self, change: &Change<'_, K>) {
        for handler in read(&self.handlers).iter() {
            handler(change);
        }
    }
}

/// Nobody here reads managedFields, and they are often the largest part of an object.
fn slim<K: ResourceExt>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::Mutex;

    fn map(name: &str, version: &str) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some(name.into());
        map.metadata.resource_version = Some(version.into());
        map
    }

    fn replay(events: Vec<watcher::Event<ConfigMap>>) -> (Arc<Informer<ConfigMap>>, Vec<String>) {
        let informer = Informer::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        informer.on_change(move |change: &Change<'_, ConfigMap>| {
            let text = match (change.old, change.new) {
                (None, Some(new)) => format!("+{}", new.name_any()),
                (Some(_), Some(new)) => format!("~{}", new.name_any()),
                (Some(old), None) => format!("-{}", old.name_any()),
                (None, None) => String::new(),
            };
            log.lock().unwrap().push(text);
        });
        let mut listing = BTreeMap::new();
        for event in events {
            informer.on_event(event, &mut listing);
        }
        let seen = seen.lock().unwrap().clone();
        (informer, seen)
    }

    #[test]
    fn a_new_list_deletes_what_it_lacks_and_skips_what_it_knows() {
        use watcher::Event::{Init, InitApply, InitDone};
        let (informer, seen) = replay(vec![
            Init,
            InitApply(map("a", "1")),
            InitApply(map("b", "2")),
            InitDone,
            Init,
            InitApply(map("b", "2")),
            InitApply(map("c", "3")),
            InitDone,
        ]);
        assert_eq!(seen, ["+a", "+b", "-a", "+c"]);
        assert!(informer.is_synced());
    }

    #[test]
    fn a_namesake_is_another_object() {
        use watcher::Event::{Apply, Init, InitApply, InitDone};
        let born = |version: &str, uid: &str| {
            let mut map = map("a", version);
            map.metadata.uid = Some(uid.into());
            map
        };
        let (_, seen) = replay(vec![
            Init,
            InitApply(born("1", "u1")),
            InitDone,
            Apply(born("2", "u1")),
            Init,
            InitApply(born("5", "u2")),
            InitDone,
        ]);
        assert_eq!(seen, ["+a", "~a", "-a", "+a"]);
    }

    #[test]
    fn nothing_is_visible_before_the_list_is_complete() {
        let (informer, seen) =
            replay(vec![watcher::Event::Init, watcher::Event::InitApply(map("a", "1"))]);
        assert!(seen.is_empty() && !informer.is_synced() && informer.list().is_empty());
    }
}
