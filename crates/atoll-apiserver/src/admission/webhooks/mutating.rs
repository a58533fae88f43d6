//! Mutating webhooks, one after the other.

use atoll_api::field::quote;
use atoll_api::kinds::scale;
use atoll_api::patch;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::super::matching::{Matched, is_scaled};
use super::super::reinvocation::Reinvocation;
use super::super::{AdmissionRequest, Operation};
use super::MUTATING;
use super::configured::Webhook;
use super::review::Shown;
use crate::core::Core;
use crate::decode::{self, Blamed, Expected};
use crate::query::FieldValidation;
use crate::status::Status;

/// The plugin.
pub(in super::super) fn mutate<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if super::is_out_of_reach(request.row) {
            return Ok(());
        }
        let Some(round) = request.reinvocation else { return Ok(()) };
        let configured = core.webhooks.mutating();
        if configured.hooks.is_empty() || !round.is_due(MUTATING, object) {
            return Ok(());
        }
        for (index, hook) in configured.hooks.iter().enumerate() {
            ask(core, request, round, hook, index, object).await?;
        }
        round.done(MUTATING, object);
        Ok(())
    }
    .boxed()
}

async fn ask(
    core: &Core,
    request: &AdmissionRequest<'_>,
    round: &Reinvocation,
    hook: &Webhook,
    index: usize,
    object: &mut Value,
) -> Result<(), Status> {
    let new = has_new(request).then_some(&*object);
    let Some(matched) = hook.wants(core, request, new).await? else { return Ok(()) };
    if !round.runs(MUTATING, &hook.id) {
        return Ok(());
    }
    let at = format!("round_{}_index_{index}", round.number());
    let shown = new.map(|object| matched.show(request, object));
    let old = request.old.map(|old| matched.show(request, old));
    let parts = Shown { object: shown.as_ref(), old: old.as_ref() };
    let asked = hook.ask(core, request, &matched, &parts, true).await;
    let result = match asked {
        Ok(verdict) => match verdict.patch {
            Some(patch) => {
                let changed = apply(request, hook, &matched, &patch, shown, object);
                if changed.is_ok() {
                    note_patch(request, hook, &at, &patch);
                }
                changed
            }
            None => Ok(false),
        },
        Err(failure) => hook
            .judge(failure, || {
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{at}");
                request.notes.annotate(&key, &hook.name);
            })
            .map(|()| false),
    };
    let changed = result.as_ref().is_ok_and(|changed| *changed);
    note_mutation(request, hook, &at, changed);
    round.ran(MUTATING, &hook.id, hook.if_needed, changed);
    result.map(|_| ())
}

/// On a delete there is only the old object.
fn has_new(request: &AdmissionRequest<'_>) -> bool {
    request.operation != Operation::Delete
}

/// Applies a patch to the object as it was shown; says whether that changed anything.
fn apply(
    request: &AdmissionRequest<'_>,
    hook: &Webhook,
    matched: &Matched,
    patch: &Value,
    shown: Option<Value>,
    object: &mut Value,
) -> Result<bool, Status> {
    let Some(shown) = shown else {
        return Err(Status::internal(format!(
            "admission webhook {} attempted to modify the object, which is not supported for this \
             operation",
            quote(&hook.name)
        )));
    };
    let mut patched = shown.clone();
    patch::json(&mut patched, patch).map_err(Status::internal)?;
    complete(matched, request, &mut patched)?;
    if patched == shown {
        return Ok(false);
    }
    if is_scaled(request, object) {
        scale::put(object, &patched);
    } else {
        matched.take_back(request, &mut patched);
        *object = patched;
    }
    Ok(true)
}

/// As upstream decodes it: unknown fields go, what is left out gets its default.
fn complete(
    matched: &Matched,
    request: &AdmissionRequest<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    let row = matched.row(request);
    let part = row.subresource(request.subresource);
    let expected = part.map_or_else(|| Expected::of_row(row), |part| Expected::of_part(row, part));
    let (ignore, blamed) = (FieldValidation::Ignore, Blamed::Result);
    decode::patched(&expected, object, Vec::new(), ignore, blamed)
        .map_err(|status| Status::internal(status.message()))?;
    if matched.kind.kind == row.kind {
        row.default(object);
    }
    Ok(())
}

fn note_mutation(request: &AdmissionRequest<'_>, hook: &Webhook, at: &str, mutated: bool) {
    let value = json!({
        "configuration": hook.configuration, "webhook": hook.name, "mutated": mutated,
    });
    request.notes.annotate(&format!("mutation.webhook.admission.k8s.io/{at}"), &value.to_string());
}

fn note_patch(request: &AdmissionRequest<'_>, hook: &Webhook, at: &str, patch: &Value) {
    let value = json!({
        "configuration": hook.configuration, "webhook": hook.name, "patch": patch,
        "patchType": "JSONPatch",
    });
    let key = format!("patch.webhook.admission.k8s.io/{at}");
    request.notes.annotate_contents(&key, &value.to_string());
}
