//! Writes which pods stand behind a Service: EndpointSlices, and Endpoints for old readers.
//!
//! [`plan`] derives the addresses; only differing objects are written.

mod legacy;
mod plan;
mod slices;

use crate::{
    error::Error,
    launch::{launch, on_each},
    selector,
    shared::{ClientFor, Shared},
};
use atoll_informer::{Change, Key, Outcome, WorkQueue};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Client, ResourceExt};
use plan::Backends;
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Services worked on at once, for each of the two forms.
const WORKERS: usize = 4;

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    slice_names: slices::Pending,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let slice_queue = WorkQueue::new();
    let legacy_queue = WorkQueue::new();
    for queue in [&slice_queue, &legacy_queue] {
        watch_inputs(shared, queue);
    }
    let queue = slice_queue.clone();
    shared.slices.on_change(move |change: &Change<'_, EndpointSlice>| {
        let owner = change.object().and_then(|slice| slices::service_of(slice));
        if let Some(key) = owner {
            queue.add(key);
        }
    });
    on_each(&shared.endpoints, &legacy_queue);

    let controller = Arc::new(Controller {
        client: clients("endpointslice-controller"),
        shared: shared.clone(),
        slice_names: slices::Pending::default(),
    });
    launch("endpointslice", WORKERS, &slice_queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.sync_slices(&key).await }
    });
    let controller = Arc::new(Controller {
        client: clients("endpoint-controller"),
        shared: shared.clone(),
        slice_names: slices::Pending::default(),
    });
    launch("endpoints", WORKERS, &legacy_queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.sync_legacy(&key).await }
    });
}

fn watch_inputs(shared: &Arc<Shared>, queue: &Arc<WorkQueue<Key>>) {
    on_each(&shared.services, queue);
    let (selected, all) = (queue.clone(), shared.clone());
    shared.pods.on_change(move |change: &Change<'_, Pod>| {
        if !plan::matters(change) {
            return;
        }
        for pod in [change.old, change.new].into_iter().flatten() {
            for service in all.services.in_namespace(&pod.namespace().unwrap_or_default()) {
                if selects(&service, pod) {
                    selected.add(Key::of(service.as_ref()));
                }
            }
        }
    });
    // A node that stops or begins to answer changes what its pods count as.
    let (affected, all) = (queue.clone(), shared.clone());
    shared.nodes.on_change(move |change: &Change<'_, Node>| {
        let before = change.old.map(|node| plan::zone(node));
        if before == change.new.map(|node| plan::zone(node)) {
            return;
        }
        for service in all.services.list() {
            affected.add(Key::of(service.as_ref()));
        }
    });
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let wanted = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    wanted.is_some_and(|wanted| {
        !wanted.is_empty() && selector::contains_all(Some(wanted), pod.labels())
    })
}

impl Controller {
    /// `None` when nobody asked us to look after this Service's endpoints.
    fn backends(&self, service: &Service) -> Option<Backends> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") || spec.selector.is_none() {
            return None;
        }
        let pods = self.shared.pods.in_namespace(&service.namespace().unwrap_or_default());
        let zones: BTreeMap<String, Option<String>> = self
            .shared
            .nodes
            .list()
            .iter()
            .map(|node| (node.name_any(), plan::zone(node)))
            .collect();
        let selected = pods.into_iter().filter(|pod| selects(service, pod));
        Some(plan::backends(service, selected, &zones))
    }

    async fn sync_slices(&self, key: &Key) -> Result<Outcome, Error> {
        let Some(service) = self.shared.services.get(key) else {
            // The garbage collector removes the slices that the Service owned.
            return Ok(Outcome::Done);
        };
        let Some(backends) = self.backends(&service) else { return Ok(Outcome::Done) };
        slices::sync(&self.client, &self.shared, &self.slice_names, &service, &backends).await?;
        Ok(Outcome::Done)
    }

    async fn sync_legacy(&self, key: &Key) -> Result<Outcome, Error> {
        let known = self.shared.endpoints.get(key);
        let Some(service) = self.shared.services.get(key) else {
            if let Some(known) = known {
                legacy::remove(&self.client, &known).await?;
            }
            return Ok(Outcome::Done);
        };
        let Some(backends) = self.backends(&service) else { return Ok(Outcome::Done) };
        legacy::sync(&self.client, known.as_deref(), &service, &backends).await?;
        Ok(Outcome::Done)
    }
}
