//! What makes a controller's passes: changes of its objects fill its queue, and its workers start
//! once the caches it reads are complete.

use crate::{
    error::{Error, settle},
    shared::Shared,
};
use atoll_informer::{Change, Informer, Key, Outcome, WorkQueue, run_workers};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, future::Future, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A pass for every object that comes, changes or goes.
pub(crate) fn on_each<K>(informer: &Informer<K>, queue: &Arc<WorkQueue<Key>>)
where
    K: Resource + ResourceExt + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let queue = queue.clone();
    informer.on_change(move |change: &Change<'_, K>| {
        if let Some(object) = change.object() {
            queue.add(Key::of(object.as_ref()));
        }
    });
}

/// `pass` makes the object of a key true, or says why it could not.
pub(crate) fn launch<F, P>(
    controller: &'static str,
    workers: usize,
    queue: &Arc<WorkQueue<Key>>,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    pass: P,
) where
    F: Future<Output = Result<Outcome, Error>> + Send + 'static,
    P: Fn(Key) -> F + Clone + Send + Sync + 'static,
{
    let (queue, shared) = (queue.clone(), shared.clone());
    let (inner, stop) = (tasks.clone(), stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.synced() => {}
        }
        run_workers(&inner, &stop, &queue, workers, move |key: Key| {
            let pass = pass.clone();
            async move {
                let result = pass(key.clone()).await;
                settle(controller, &key, result)
            }
        });
    });
}
