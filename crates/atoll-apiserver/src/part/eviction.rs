//! `pods/eviction`: a delete that asks the disruption budgets first.

use atoll_api::access::Access as _;
use atoll_api::kinds;
use atoll_api::selector::LabelSelector;
use http::StatusCode;
use serde_json::Value;

use super::{decode, part_of, text};
use crate::call::Call;
use crate::delete::{self, DeleteOptions};
use crate::render::Answer;
use crate::status::{self, Status};

pub(super) async fn serve(call: &Call) -> Result<Answer, Status> {
    let options = call.query.write_options("CreateOptions")?;
    let incoming = decode(call, part_of(call)?, &options)?;
    let name = text(&incoming.object, "/metadata/name");
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
    let stored = stored.ok_or_else(|| call.not_found())?;
    let pod = call.decode(&stored).await?;
    if !may_go_at_once(&pod) {
        ask_budgets(call, &pod)?;
    }
    let dry = if options.dry_run { vec!["All"] } else { Vec::new() };
    let delete_options = DeleteOptions::read(&incoming.object["deleteOptions"], &dry)?;
    delete::one(call, call.name(), call.namespace(), &delete_options).await?;
    let mut answer = Answer::ok(status::plain_success(201)).with_warnings(incoming.warnings);
    answer.code = StatusCode::CREATED;
    Ok(answer)
}

/// A pod that has finished, not begun or is leaving disrupts nothing.
fn may_go_at_once(pod: &Value) -> bool {
    matches!(pod["status"].text("phase"), "Succeeded" | "Failed" | "Pending" | "")
        || pod["metadata"].has("deletionTimestamp")
}

fn ask_budgets(call: &Call, pod: &Value) -> Result<(), Status> {
    let Some(row) = kinds::find("policy", "v1", "poddisruptionbudgets") else { return Ok(()) };
    let Some(cache) = call.core.registry.cache(row) else { return Ok(()) };
    let mut covering = Vec::new();
    for entry in cache.list(call.namespace()) {
        let budget = entry.object(row)?;
        let Ok(selector) = LabelSelector::from_object(&budget["spec"]["selector"]) else {
            continue;
        };
        let labels = &pod["metadata"]["labels"];
        if selector.matches(|key| labels.opt_text(key)) {
            covering.push(budget);
        }
    }
    match covering.as_slice() {
        [] => Ok(()),
        [budget] => ask(budget),
        _ => Err(Status::server_error(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does \
             not support.",
        )),
    }
}

fn ask(budget: &Value) -> Result<(), Status> {
    if budget["status"].int("disruptionsAllowed").unwrap_or(0) > 0 {
        return Ok(());
    }
    let name = budget["metadata"].text("name");
    let healthy = budget["status"].int("currentHealthy").unwrap_or(0);
    let wanted = budget["status"].int("desiredHealthy").unwrap_or(0);
    Err(Status::disruption_budget(
        "Cannot evict pod as it would violate the pod's disruption budget.",
        &format!(
            "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
        ),
    ))
}
