//! The rows that are served and the caches of their objects, fed by one watch of the store.
//!
//! One watch over everything keeps all caches at one revision: a consistent list asks the
//! store for its revision and waits until the feed has come that far.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use atoll_api::kinds::{self, ResourceInfo, Row};
use atoll_store::kv::{
    Error as StoreError, EventKind, KeyRange, KvStore, RangeRequest, Revision, WatchBatch,
    WatchRequest,
};
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::{CacheWrite, Entry, ResourceCache};
use crate::status::Status;
use crate::{crd, metrics_api, storage};

/// Revisions of history read at start, so that watchers resume over a restart.
const HISTORY_REVISIONS: Revision = 1000;
/// How long a consistent read waits for the feed. Upstream's number.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Between two attempts to watch a store that is away.
const RETRY: Duration = Duration::from_millis(200);

/// All resources of this server.
pub struct Registry {
    kv: Arc<dyn KvStore>,
    /// Replaced as a whole when rows come or go.
    table: ArcSwap<Table>,
    /// Every change up to this revision is in the caches.
    revision: watch::Sender<Revision>,
    /// Raised whenever rows come, go or change.
    generation: AtomicU64,
    /// The rows are not those of the definitions in the caches: everything is read again.
    stale: AtomicBool,
}

/// What is served right now.
#[derive(Clone, Default)]
struct Table {
    /// In the order of discovery.
    rows: Vec<Row>,
    /// One for each stored resource; few enough to look through.
    caches: Vec<Arc<ResourceCache>>,
    /// By `<group>/<resource>` as in keys.
    by_prefix: HashMap<String, Arc<ResourceCache>>,
    /// The definitions whose rows these are, by name: what their rows were made of.
    custom: HashMap<String, crd::Origin>,
}

impl Registry {
    /// Reads all objects. [`Registry::feed`] then keeps them current.
    pub(crate) async fn load(kv: Arc<dyn KvStore>) -> Result<Self, Status> {
        let mut table = Table::default();
        for row in kinds::builtin().iter().filter(|row| row.served) {
            table.add(row.into());
        }
        for row in metrics_api::rows() {
            table.add(row);
        }
        let table = ArcSwap::from_pointee(table);
        let revision = watch::channel(0).0;
        let (generation, stale) = (AtomicU64::new(1), AtomicBool::new(false));
        let registry = Self { kv, table, revision, generation, stale };
        registry.reload(HISTORY_REVISIONS).await?;
        Ok(registry)
    }

    /// The row of a URL, if it is served.
    pub fn row(&self, group: &str, version: &str, resource: &str) -> Option<Row> {
        let table = self.table.load();
        let mut rows = table.rows.iter();
        rows.find(|row| row.resource == resource && row.group == group && row.version == version)
            .cloned()
    }

    /// All served rows in the order of discovery.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.table.load().rows.clone().into_iter()
    }

    /// Whether anything is served of a version: `apps/v1`.
    pub fn has_version(&self, api_version: &str) -> bool {
        self.rows().any(|row| row.api_version() == api_version)
    }

    /// Another number whenever rows came, went or changed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The objects of a row.
    pub fn cache(&self, row: &ResourceInfo) -> Option<Arc<ResourceCache>> {
        self.objects(&row.storage.group, &row.storage.resource)
    }

    /// The objects of a stored resource: `("", "pods")`.
    pub fn objects(&self, group: &str, resource: &str) -> Option<Arc<ResourceCache>> {
        self.table.load().objects(group, resource).cloned()
    }

    /// Every change up to this revision is in the caches.
    pub fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Waits until the caches hold every write acknowledged before the call; returns the
    /// revision they have reached.
    pub async fn catch_up(&self) -> Result<Revision, Status> {
        let mut request = RangeRequest::new(KeyRange::single(storage::ROOT));
        request.count_only = true;
        let answer = self.kv.range(request).await.map_err(|error| Status::store(&error))?;
        if self.revision() < answer.revision {
            self.wait_for(answer.revision).await?;
        }
        Ok(self.revision())
    }

    /// Waits until the caches have reached a revision.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Status> {
        let mut seen = self.revision.subscribe();
        if *seen.borrow_and_update() >= revision {
            return Ok(());
        }
        // Revisions that write nothing of ours show only as progress.
        let present = self.kv.request_progress().await.map_err(|error| Status::store(&error))?;
        if revision > present {
            return Err(Status::too_large_revision(revision, present));
        }
        let reached = tokio::time::timeout(CATCH_UP, seen.wait_for(|at| *at >= revision)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Status::too_large_revision(revision, self.revision())),
        }
    }

    /// Follows the store until `stop`.
    pub(crate) async fn feed(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow() => ended,
            };
            let stale = self.stale.swap(false, Ordering::AcqRel);
            if stale || matches!(ended, Some(StoreError::Compacted { .. })) {
                if let Err(error) = self.reload(0).await {
                    tracing::warn!(%error, "reading all objects again failed, will retry");
                    self.stale.store(stale, Ordering::Release);
                }
            } else if let Some(error) = ended {
                tracing::warn!(%error, "the watch of the store ended, starting it again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    async fn follow(&self) -> Option<StoreError> {
        let mut batches = self.kv.watch(WatchRequest {
            range: KeyRange::prefix(storage::ROOT),
            start_revision: Some(self.revision() + 1),
            prev_kv: false,
        });
        while let Some(batch) = batches.next().await {
            match batch {
                Ok(batch) => {
                    if let Err(error) = self.on_batch(batch).await {
                        self.stale.store(true, Ordering::Release);
                        return Some(error);
                    }
                }
                Err(error) => return Some(error),
            }
        }
        None
    }

    async fn on_batch(&self, batch: WatchBatch) -> Result<(), StoreError> {
        let table = self.table.load_full();
        let mut definitions = Vec::new();
        let mut touched: Vec<(&Arc<ResourceCache>, Revision, Vec<CacheWrite>)> = Vec::new();
        for event in batch.events {
            let Some((cache, key)) = table.locate(&event.kv.key) else { continue };
            let revision = event.kv.mod_revision;
            if crd::defines(cache.row()) {
                definitions.push(key.to_owned());
            }
            let write = match event.kind {
                EventKind::Delete => CacheWrite::Delete { key: key.to_owned(), revision },
                EventKind::Put => {
                    match Entry::decode(cache.row(), key, revision, &event.kv.value) {
                        Ok(entry) => CacheWrite::Put(entry),
                        Err(error) => {
                            tracing::error!(%error, key, "an object is unreadable");
                            continue;
                        }
                    }
                }
            };
            match touched.iter_mut().find(|(other, ..)| Arc::ptr_eq(other, cache)) {
                Some((_, latest, writes)) => {
                    *latest = revision;
                    writes.push(write);
                }
                None => touched.push((cache, revision, vec![write])),
            }
        }
        for (cache, _, writes) in &mut touched {
            cache.apply(std::mem::take(writes));
        }
        // Before anybody hears of the revision: whoever waits for it finds the rows as well.
        if !definitions.is_empty() {
            self.follow_definitions(&table, &definitions, batch.revision).await?;
        }
        // Before the revision as well: what is made of the caches, such as who may do what, is
        // made again for whoever waits for it.
        for (cache, revision, _) in touched {
            cache.announce(revision);
        }
        if batch.revision > self.revision() {
            self.revision.send_replace(batch.revision);
        }
        Ok(())
    }

    /// Makes the rows those of the definitions, some of which changed, as of a revision that all
    /// caches have reached.
    async fn follow_definitions(
        &self,
        table: &Arc<Table>,
        changed: &[String],
        revision: Revision,
    ) -> Result<(), StoreError> {
        let mut wanted = table.custom.clone();
        for name in changed {
            wanted.remove(name);
        }
        wanted.extend(crd::origins(table.definitions(changed)));
        if wanted == table.custom {
            return Ok(());
        }
        let mut next = (**table).clone();
        let mut closed = Vec::new();
        for name in table.custom.keys() {
            if wanted.get(name) != table.custom.get(name) {
                closed.extend(next.remove_custom(name));
            }
        }
        let mut added: Vec<&String> =
            wanted.keys().filter(|name| !next.custom.contains_key(*name)).collect();
        added.sort();
        for name in added {
            let Some(origin) = wanted.get(name) else { continue };
            let Some(cache) = next.add_custom(name, origin) else { continue };
            let mut request = RangeRequest::new(KeyRange::prefix(storage::prefix(cache.row())));
            request.revision = Some(revision);
            let answer = self.kv.range(request).await?;
            let skip = storage::prefix(cache.row()).len();
            let entries = answer.kvs.iter().filter_map(|kv| {
                let key = std::str::from_utf8(kv.key.get(skip..)?).ok()?;
                crd::readable(Entry::decode(cache.row(), key, kv.mod_revision, &kv.value), key)
            });
            cache.reset(entries.collect(), revision);
        }
        self.publish(next);
        for cache in closed {
            cache.close();
        }
        Ok(())
    }

    fn publish(&self, mut table: Table) {
        table.sort();
        self.table.store(Arc::new(table));
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Reads everything, as of `history` revisions ago where the store still has that.
    async fn reload(&self, history: Revision) -> Result<(), Status> {
        let mut request = RangeRequest::new(KeyRange::single(storage::ROOT));
        request.count_only = true;
        let present = self.kv.range(request).await.map_err(|error| Status::store(&error))?;
        let past = present.revision.saturating_sub(history).max(1);
        let state = match self.read_all(Some(past)).await {
            Ok(state) if history > 0 => state,
            _ => self.read_all(None).await?,
        };
        let (revision, table, mut objects) = state;
        let before = self.table.load_full();
        self.publish(table);
        for cache in before.caches.iter().filter(|cache| cache.row().custom.is_some()) {
            cache.close();
        }
        for (prefix, cache) in &self.table.load().by_prefix {
            cache.reset(objects.remove(prefix).unwrap_or_default(), revision);
        }
        self.revision.send_replace(revision);
        Ok(())
    }

    async fn read_all(
        &self,
        revision: Option<Revision>,
    ) -> Result<(Revision, Table, HashMap<String, Vec<Entry>>), Status> {
        let mut request = RangeRequest::new(KeyRange::prefix(storage::ROOT));
        request.revision = revision;
        let answer = self.kv.range(request).await.map_err(|error| Status::store(&error))?;
        let mut table = (*self.table.load_full()).clone();
        let names: Vec<String> = table.custom.keys().cloned().collect();
        for name in names {
            table.remove_custom(&name);
        }
        let definitions = answer
            .kvs
            .iter()
            .filter(|kv| table.locate(&kv.key).is_some_and(|(cache, _)| crd::defines(cache.row())));
        let definitions: Vec<_> = definitions.map(|kv| storage::parse(&kv.value)).collect();
        let origins = crd::origins(definitions.into_iter().filter_map(Result::ok));
        for (name, origin) in &origins {
            table.add_custom(name, origin);
        }
        let mut objects: HashMap<String, Vec<Entry>> = HashMap::new();
        for kv in &answer.kvs {
            let Some((cache, key)) = table.locate(&kv.key) else { continue };
            let entry = Entry::decode(cache.row(), key, kv.mod_revision, &kv.value);
            let entry = match cache.row().custom {
                None => Some(entry?),
                Some(_) => crd::readable(entry, key),
            };
            objects.entry(prefix(cache.row())).or_default().extend(entry);
        }
        Ok((revision.unwrap_or(answer.revision), table, objects))
    }
}

impl Table {
    fn add(&mut self, row: Row) {
        if !row.virtual_only && self.objects(&row.storage.group, &row.storage.resource).is_none() {
            let stored = &row.storage;
            let stored = kinds::find(&stored.group, &stored.version, &stored.resource);
            let cache = Arc::new(ResourceCache::new(stored.map_or(row.clone(), Row::from)));
            self.caches.push(cache.clone());
            self.by_prefix.insert(prefix(&row), cache);
        }
        self.rows.push(row);
    }

    /// Those of the definitions of these names that are there.
    fn definitions(&self, names: &[String]) -> Vec<serde_json::Value> {
        let Some(cache) = self.caches.iter().find(|cache| crd::defines(cache.row())) else {
            return Vec::new();
        };
        let entries = names.iter().filter_map(|name| cache.get("", name));
        entries.filter_map(|entry| storage::parse(&entry.json).ok()).collect()
    }

    /// The rows of a definition, and the cache of its objects; `None` when a built-in resource
    /// has its place.
    fn add_custom(&mut self, name: &str, origin: &crd::Origin) -> Option<Arc<ResourceCache>> {
        let rows = origin.rows();
        let stored = rows.iter().find(|row| row.version == row.storage.version)?.clone();
        self.custom.insert(name.to_owned(), origin.clone());
        if self.by_prefix.contains_key(&prefix(&stored)) {
            return None;
        }
        let cache = Arc::new(ResourceCache::new(stored.clone()));
        self.caches.push(cache.clone());
        self.by_prefix.insert(prefix(&stored), cache.clone());
        self.rows.extend(rows.into_iter().filter(|row| row.served));
        Some(cache)
    }

    /// The cache that goes with the rows of a definition.
    fn remove_custom(&mut self, name: &str) -> Option<Arc<ResourceCache>> {
        let own = |row: &Row| row.custom.as_ref().is_some_and(|custom| custom.crd == name);
        self.custom.remove(name);
        self.rows.retain(|row| !own(row));
        let at = self.caches.iter().position(|cache| own(cache.row()))?;
        let cache = self.caches.remove(at);
        self.by_prefix.remove(&prefix(cache.row()));
        Some(cache)
    }

    /// Custom resources stand behind all others, by group and name; the versions of one keep
    /// their order.
    fn sort(&mut self) {
        let first = self.rows.iter().position(|row| row.custom.is_some());
        let Some(rows) = first.and_then(|first| self.rows.get_mut(first..)) else { return };
        rows.sort_by(|one, other| {
            (one.custom.is_some(), &one.group, &one.resource).cmp(&(
                other.custom.is_some(),
                &other.group,
                &other.resource,
            ))
        });
    }

    fn objects(&self, group: &str, resource: &str) -> Option<&Arc<ResourceCache>> {
        self.caches.iter().find(|cache| {
            let stored = &cache.row().storage;
            stored.resource == resource && stored.group == group
        })
    }

    /// Which cache a key belongs to, and what follows the prefix.
    fn locate<'a>(&self, key: &'a [u8]) -> Option<(&Arc<ResourceCache>, &'a str)> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(storage::ROOT)?;
        let slash = key.find('/')?;
        let end = slash + 1 + key.get(slash + 1..)?.find('/')?;
        let cache = self.by_prefix.get(key.get(..end)?)?;
        Some((cache, key.get(end + 1..)?))
    }
}

/// `<group>/<resource>` as in the keys of a row.
fn prefix(row: &ResourceInfo) -> String {
    storage::prefix(row).trim_start_matches(storage::ROOT).trim_end_matches('/').to_owned()
}
