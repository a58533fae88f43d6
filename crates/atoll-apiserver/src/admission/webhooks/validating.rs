//! Validating webhooks, all at once.

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::Value;

use super::super::matching::Matched;
use super::super::{AdmissionRequest, Operation};
use super::configured::Webhook;
use super::review::Shown;
use crate::core::Core;
use crate::status::Status;

/// Webhooks of one request that are asked at once; further ones wait for these.
const CALLS_MAX: usize = 64;

/// The plugin.
pub(in super::super) fn validate<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if super::is_out_of_reach(request.row) {
            return Ok(());
        }
        let configured = core.webhooks.validating();
        let new = (request.operation != Operation::Delete).then_some(object);
        let mut wanted = Vec::new();
        for hook in &configured.hooks {
            if let Some(matched) = hook.wants(core, request, new).await? {
                wanted.push((hook, matched));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let calls = wanted
            .iter()
            .enumerate()
            .map(|(index, (hook, matched))| ask(core, request, hook, matched, index, new).boxed());
        let calls: Vec<_> = calls.collect();
        let answers: Vec<Result<(), Status>> =
            futures::stream::iter(calls).buffered(CALLS_MAX).collect().await;
        answers.into_iter().collect()
    }
    .boxed()
}

async fn ask(
    core: &Core,
    request: &AdmissionRequest<'_>,
    hook: &Webhook,
    matched: &Matched,
    index: usize,
    object: Option<&Value>,
) -> Result<(), Status> {
    let object = object.map(|object| matched.show(request, object));
    let old = request.old.map(|old| matched.show(request, old));
    let shown = Shown { object: object.as_ref(), old: old.as_ref() };
    match hook.ask(core, request, matched, &shown, false).await {
        Ok(_) => Ok(()),
        Err(failure) => hook.judge(failure, || {
            let key =
                format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
            request.notes.annotate(&key, &hook.name);
        }),
    }
}
