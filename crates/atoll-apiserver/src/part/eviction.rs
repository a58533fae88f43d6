//! `pods/eviction`: a delete that asks the disruption budget first.
//!
//! The budget gives one of its disruptions away before the pod goes, by a compare-and-swap on
//! its own status: of several evictions at once no more get through than it allows.

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo};
use atoll_api::selector::LabelSelector;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{part_of, text};
use crate::admission::{self, Operation};
use crate::call::Call;
use crate::decode::{self, Expected, Incoming};
use crate::delete::{self, DeleteOptions};
use crate::negotiate;
use crate::query::WriteOptions;
use crate::render::Answer;
use crate::status::{self, Status};
use crate::storage::{self, Extra, Written};
use crate::turns::Attempts;

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
/// Evictions that a budget has let through and its controller has not yet confirmed.
const DISRUPTED_MAX: usize = 2000;
/// When to ask again while the budget's controller has not seen its latest spec.
const PROCESSING_SECONDS: u32 = 10;

pub(super) async fn serve(call: &Call) -> Result<Answer, Status> {
    let options = call.query.write_options("CreateOptions")?;
    let mut incoming = decode(call, &options)?;
    let name = text(&incoming.object, "/metadata/name");
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let dry = if options.dry_run { vec!["All"] } else { Vec::new() };
    let mut delete_options = DeleteOptions::read(&incoming.object["deleteOptions"], &dry)?;
    // An eviction is created; of the delete that it leads to nobody is asked (as upstream).
    let request = call.admission(Operation::Create, call.name(), None, delete_options.dry_run);
    admission::admit(&call.core, &request, &mut incoming.object).await?;
    admission::validate(&call.core, &request, &incoming.object).await?;
    // Whoever admits it may change how the pod goes.
    delete_options = DeleteOptions::read(&incoming.object["deleteOptions"], &dry)?;
    delete_options.admitted = true;
    let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
    let stored = stored.ok_or_else(|| call.not_found())?;
    let pod = call.decode(&stored).await?;
    if !may_go_at_once(&pod) {
        match budget_of(call, &pod).await? {
            // It must still be as unhealthy as it was seen to be.
            Some(budget) if needs_no_budget(&pod, &budget) => {
                delete_options.resource_version.get_or_insert(stored.revision.to_string());
            }
            Some(budget) => take_one(call, &budget, delete_options.dry_run).await?,
            None => {}
        }
        if !delete_options.dry_run {
            note_on_pod(call, &mut delete_options).await?;
        }
    }
    delete::one(call, call.name(), call.namespace(), &delete_options).await?;
    let mut answer = Answer::ok(status::plain_success(201)).with_warnings(incoming.warnings);
    answer.code = StatusCode::CREATED;
    Ok(answer)
}

/// The version that went with v1.25 is still taken of bodies, as upstream does.
fn decode(call: &Call, options: &WriteOptions) -> Result<Incoming, Status> {
    let expected = Expected::of_part(&call.row, part_of(call)?);
    let format = negotiate::body_format(&call.headers)?;
    let validation = options.field_validation;
    decode::object_as(&expected, &call.body, format, validation, |version| {
        version == "policy/v1beta1"
    })
}

/// A pod that has finished, not begun or is leaving disrupts nothing.
fn may_go_at_once(pod: &Value) -> bool {
    matches!(pod["status"].text("phase"), "Succeeded" | "Failed" | "Pending" | "")
        || pod["metadata"].has("deletionTimestamp")
}

/// A pod that is not ready counts for no budget: it may go where the budget says so, or where
/// the others are enough.
fn needs_no_budget(pod: &Value, budget: &Value) -> bool {
    if kinds::pod::condition_is_true(&pod["status"], "Ready") {
        return false;
    }
    let count = |field: &str| budget["status"].int(field).unwrap_or(0);
    budget["spec"].text("unhealthyPodEvictionPolicy") == "AlwaysAllow"
        || (count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy"))
}

fn budgets() -> Result<&'static ResourceInfo, Status> {
    kinds::find("policy", "v1", "poddisruptionbudgets").ok_or_else(Status::no_resource)
}

/// The budget that covers the pod; more than one is refused.
async fn budget_of(call: &Call, pod: &Value) -> Result<Option<Value>, Status> {
    let row = budgets()?;
    let Some(cache) = call.core.registry.cache(row) else { return Ok(None) };
    call.core.registry.catch_up().await?;
    let mut covering = Vec::new();
    for entry in cache.list(call.namespace()) {
        let budget = entry.object(row)?;
        let selector = &budget["spec"]["selector"];
        let Ok(wanted) = LabelSelector::from_object(selector) else { continue };
        if !selector.is_null() && wanted.matches_object(pod) {
            covering.push(budget);
        }
    }
    if covering.len() > 1 {
        return Err(Status::server_error(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does \
             not support.",
        ));
    }
    Ok(covering.pop())
}

/// Takes one disruption from the budget, or says why there is none.
async fn take_one(call: &Call, budget: &Value, dry_run: bool) -> Result<(), Status> {
    let (row, name) = (budgets()?, budget["metadata"].text("name"));
    let mut attempts = Attempts::on(&call.core, row, call.namespace(), name);
    while attempts.next().await {
        let stored = call.core.storage.get(row, call.namespace(), name).await?;
        // A budget that has just gone protects nobody.
        let Some(stored) = stored else { return Ok(()) };
        let mut budget = stored.object(row)?;
        check(row, &budget)?;
        if dry_run {
            return Ok(());
        }
        decrement(&mut budget, call.name(), &call.core.now_text());
        let key = storage::key(row, call.namespace(), name);
        let value = storage::encode(row, &budget)?;
        let written =
            call.core.storage.update(key, stored.revision, value, Extra::default()).await?;
        if let Written::Done(_) = written {
            return Ok(());
        }
    }
    Err(Status::modified(row, name))
}

fn check(row: &ResourceInfo, budget: &Value) -> Result<(), Status> {
    let (name, status) = (budget["metadata"].text("name"), &budget["status"]);
    let generation = budget["metadata"].int("generation").unwrap_or(0);
    if status.int("observedGeneration").unwrap_or(0) < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Status::disruption_budget(REFUSAL, &why).retry_after(PROCESSING_SECONDS));
    }
    let allowed = status.int("disruptionsAllowed").unwrap_or(0);
    if allowed < 0 {
        return Err(Status::forbidden(row, name, "pdb disruptions allowed is negative"));
    }
    if status.fields("disruptedPods").is_some_and(|pods| pods.len() > DISRUPTED_MAX) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden(row, name, why));
    }
    if allowed > 0 {
        return Ok(());
    }
    let healthy = status.int("currentHealthy").unwrap_or(0);
    let wanted = status.int("desiredHealthy").unwrap_or(0);
    let why = format!(
        "The disruption budget {name} needs {wanted} healthy pods and has {healthy} currently"
    );
    Err(Status::disruption_budget(REFUSAL, &why))
}

/// The pod is noted, so that it counts as gone until it is.
fn decrement(budget: &mut Value, pod: &str, now: &str) {
    let allowed = budget["status"].int("disruptionsAllowed").unwrap_or(0) - 1;
    let generation = budget["metadata"].get("generation").cloned().unwrap_or(Value::Null);
    let status = status_of(budget);
    status.insert("disruptionsAllowed".to_owned(), json!(allowed));
    let pods = status.entry("disruptedPods").or_insert_with(|| json!({}));
    pods[pod] = json!(now);
    if allowed == 0 {
        set_condition(
            status,
            json!({"type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods",
                   "message": "", "lastTransitionTime": now, "observedGeneration": generation}),
        );
    }
}

/// The pod says why it goes, for whoever counts its failure. What is then deleted is the pod
/// in that state.
async fn note_on_pod(call: &Call, options: &mut DeleteOptions) -> Result<(), Status> {
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
        let stored = stored.ok_or_else(|| call.not_found())?;
        let found = stored.revision.to_string();
        if options.resource_version.as_ref().is_some_and(|wanted| *wanted != found) {
            // The delete says so in its own words.
            return Ok(());
        }
        let mut pod = call.decode(&stored).await?;
        let condition = json!({"type": "DisruptionTarget", "status": "True",
            "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            "lastProbeTime": null, "lastTransitionTime": call.core.now_text()});
        set_condition(status_of(&mut pod), condition);
        let key = storage::key(&call.row, call.namespace(), call.name());
        let value = storage::encode(&call.row, &pod)?;
        let written =
            call.core.storage.update(key, stored.revision, value, Extra::default()).await?;
        if let Written::Done(revision) = written {
            if let Some(version) = &mut options.resource_version {
                *version = revision.to_string();
            }
            return Ok(());
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

/// The status to change, made when there is none.
fn status_of(object: &mut Value) -> &mut Map<String, Value> {
    let slot = &mut object["status"];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    match slot {
        Value::Object(map) => map,
        _ => unreachable!("set to an object above"),
    }
}

/// Replaces the condition of the same type.
fn set_condition(status: &mut Map<String, Value>, condition: Value) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(list) = conditions else { return };
    match list.iter_mut().find(|one| one.text("type") == condition.text("type")) {
        Some(known) => *known = condition,
        None => list.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "spec": {}, "status": status})
    }

    #[test]
    fn a_budget_is_used_up() {
        let status = json!({"observedGeneration": 2, "disruptionsAllowed": 1,
            "currentHealthy": 2, "desiredHealthy": 1});
        let mut budget = budget(status);
        assert!(check(budgets().unwrap(), &budget).is_ok());
        decrement(&mut budget, "p", "2026-01-01T00:00:00Z");
        assert_eq!(budget["status"]["disruptedPods"], json!({"p": "2026-01-01T00:00:00Z"}));
        assert_eq!(budget["status"]["conditions"][0]["reason"], "InsufficientPods");
        let refused = check(budgets().unwrap(), &budget).unwrap_err();
        assert_eq!((refused.code(), refused.message()), (StatusCode::TOO_MANY_REQUESTS, REFUSAL));
        assert_eq!(
            refused.to_value()["details"]["causes"][0]["message"],
            "The disruption budget b needs 1 healthy pods and has 2 currently"
        );
    }

    #[test]
    fn a_budget_that_was_just_changed_lets_nobody_through() {
        let stale = budget(json!({"observedGeneration": 1, "disruptionsAllowed": 5}));
        let refused = check(budgets().unwrap(), &stale).unwrap_err();
        assert_eq!(refused.retry_after_seconds(), PROCESSING_SECONDS);
    }

    #[test]
    fn a_pod_that_is_not_ready_goes_where_the_others_are_enough() {
        let pod = json!({"status": {"phase": "Running"}});
        let enough = json!({"currentHealthy": 2, "desiredHealthy": 2});
        let short = json!({"currentHealthy": 1, "desiredHealthy": 2});
        assert!(needs_no_budget(&pod, &budget(enough.clone())));
        assert!(!needs_no_budget(&pod, &budget(short.clone())));
        let mut always = budget(short);
        always["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        assert!(needs_no_budget(&pod, &always));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert!(!needs_no_budget(&ready, &budget(enough)));
    }
}
