//! Mirrors Endpoints that people or programs write themselves into EndpointSlices, which are
//! what nodes read.

mod plan;

use crate::{
    error::{Error, failed, gone_is_fine},
    launch::{launch, on_each},
    shared::{ClientFor, Shared},
};
use atoll_informer::{Change, Key, Outcome, Recorder, WorkQueue};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use plan::Step;
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

const WORKERS: usize = 2;

struct Controller {
    client: Client,
    shared: Arc<Shared>,
    recorder: Recorder,
}

pub(crate) fn start(
    clients: &ClientFor,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    const NAME: &str = "endpointslicemirroring-controller";
    let queue = WorkQueue::new();
    let client = clients(NAME);
    on_each(&shared.endpoints, &queue);
    on_each(&shared.services, &queue);
    let slices = queue.clone();
    shared.slices.on_change(move |change: &Change<'_, EndpointSlice>| {
        if let Some(slice) = change.object().filter(|slice| is_mirror(slice)) {
            let service = slice.labels().get(plan::SERVICE_NAME).cloned().unwrap_or_default();
            slices.add(Key::new(slice.namespace().unwrap_or_default(), service));
        }
    });
    let controller = Arc::new(Controller {
        recorder: Recorder::start(client.clone(), NAME, None, tasks, stop.clone()),
        client,
        shared: shared.clone(),
    });
    launch("endpointslicemirroring", WORKERS, &queue, shared, tasks, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(&key).await }
    });
}

fn is_mirror(slice: &EndpointSlice) -> bool {
    slice.labels().get(plan::MANAGED_BY).map(String::as_str) == Some(plan::MANAGER)
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let indexed = self.shared.slices.indexed(0, &key.to_string());
        let known: Vec<Arc<EndpointSlice>> =
            indexed.into_iter().filter(|slice| is_mirror(slice)).collect();
        let endpoints = self.shared.endpoints.get(key);
        let service = self.shared.services.get(key);
        let custom = endpoints.filter(|endpoints| plan::is_custom(endpoints, service.as_deref()));
        let steps = match &custom {
            None => known.into_iter().map(Step::Delete).collect(),
            Some(endpoints) => {
                let (steps, skipped) = plan::plan(endpoints, &known);
                if skipped > 0 && !steps.is_empty() {
                    let message = format!(
                        "A max of {} addresses can be mirrored to EndpointSlices per Endpoints \
                         subset. {skipped} addresses were skipped",
                        plan::ADDRESSES_MAX
                    );
                    self.recorder.warning(endpoints.as_ref(), "TooManyAddressesToMirror", message);
                }
                steps
            }
        };
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        for step in steps {
            apply(&api, step).await?;
        }
        Ok(Outcome::Done)
    }
}

async fn apply(api: &Api<EndpointSlice>, step: Step) -> Result<(), Error> {
    match step {
        Step::Create(slice) => {
            let created = api.create(&PostParams::default(), &slice).await;
            created.map_err(failed("creating", "endpointslice", slice.name_any()))?;
        }
        Step::Update(slice) => {
            let name = slice.name_any();
            let replaced = api.replace(&name, &PostParams::default(), &slice).await;
            replaced.map_err(failed("updating", "endpointslice", name))?;
        }
        Step::Delete(slice) => {
            let preconditions = Preconditions { uid: slice.uid(), ..Preconditions::default() };
            let params = DeleteParams::default().preconditions(preconditions);
            let deleted = gone_is_fine(api.delete(&slice.name_any(), &params).await);
            deleted.map_err(failed("deleting", "endpointslice", slice.name_any()))?;
        }
    }
    Ok(())
}
