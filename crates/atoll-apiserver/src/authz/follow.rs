//! An index over some of the caches, brought up to date when it is asked.
//!
//! No task feeds it: a question compares positions (one load for each cache), and only when
//! a cache has moved on are its changes taken in.

use std::sync::{Arc, PoisonError, RwLock};

use atoll_store::kv::Revision;
use tokio::sync::watch;

use crate::cache::{ChangeKind, Entry, ResourceCache};
use crate::registry::Registry;

/// An index that can be built from objects.
pub(super) trait Model: Sized + Send + Sync {
    type Kind: Copy + Send + Sync;

    /// Group and resource of everything it is built from.
    fn sources() -> Vec<(Self::Kind, &'static str, &'static str)>;
    fn empty() -> Self;
    fn apply(&mut self, kind: Self::Kind, object: &serde_json::Value);
    fn remove(&mut self, kind: Self::Kind, namespace: &str, name: &str);
}

pub(super) struct Followed<M: Model> {
    sources: Vec<Source<M::Kind>>,
    state: RwLock<State<M>>,
}

struct Source<K> {
    kind: K,
    cache: Arc<ResourceCache>,
    latest: watch::Receiver<Revision>,
}

struct State<M> {
    model: M,
    /// One for each source: changes up to here are in the model. `None` before the first read.
    positions: Vec<Option<Revision>>,
}

impl<M: Model> Followed<M> {
    /// Resources that are not served have no objects to follow.
    pub(super) fn new(registry: &Registry) -> Self {
        let sources: Vec<Source<M::Kind>> = M::sources()
            .into_iter()
            .filter_map(|(kind, group, resource)| {
                let cache = registry.objects(group, resource)?;
                let latest = cache.subscribe();
                Some(Source { kind, cache, latest })
            })
            .collect();
        let positions = vec![None; sources.len()];
        Self { sources, state: RwLock::new(State { model: M::empty(), positions }) }
    }

    /// Asks the model as of everything that the caches have announced.
    pub(super) fn with<R>(&self, ask: impl FnOnce(&M) -> R) -> R {
        {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if self.is_current(&state) {
                return ask(&state.model);
            }
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if !self.is_current(&state) && !self.catch_up(&mut state) {
            self.rebuild(&mut state);
        }
        ask(&state.model)
    }

    fn is_current(&self, state: &State<M>) -> bool {
        self.sources
            .iter()
            .zip(&state.positions)
            .all(|(source, position)| position.is_some_and(|at| at >= *source.latest.borrow()))
    }

    /// Takes in the changes since; false when a cache no longer has them.
    fn catch_up(&self, state: &mut State<M>) -> bool {
        for (source, position) in self.sources.iter().zip(&mut state.positions) {
            let Some(at) = position else { return false };
            let announced = *source.latest.borrow();
            loop {
                let Ok(changes) = source.cache.changes_after(*at) else { return false };
                let Some(last) = changes.last() else { break };
                *at = last.revision;
                for change in &changes {
                    let entry = &change.entry;
                    match change.kind {
                        ChangeKind::Deleted => {
                            state.model.remove(source.kind, entry.namespace(), entry.name());
                        }
                        ChangeKind::Added | ChangeKind::Modified => {
                            put(&mut state.model, source, entry);
                        }
                    }
                }
            }
            *at = announced.max(*at);
        }
        true
    }

    fn rebuild(&self, state: &mut State<M>) {
        state.model = M::empty();
        for (source, position) in self.sources.iter().zip(&mut state.positions) {
            let announced = *source.latest.borrow();
            let (entries, at) = source.cache.list_at("", announced);
            for entry in &entries {
                put(&mut state.model, source, entry);
            }
            *position = Some(at);
        }
    }
}

fn put<M: Model>(model: &mut M, source: &Source<M::Kind>, entry: &Entry) {
    match entry.object(source.cache.row()) {
        Ok(object) => model.apply(source.kind, &object),
        Err(error) => tracing::error!(%error, key = %entry.key, "an object is unreadable"),
    }
}
