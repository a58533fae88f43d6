//! CertificateSigningRequest: approval and issuing are ways of their own to change it.

use serde_json::Value;

use super::{Hooks, UpdateHooks, metadata, prepare};
use crate::access::Access as _;
use crate::{columns, validate};

pub(super) const HOOKS: Hooks = Hooks {
    prepare_create: Some(prepare::drop_status),
    prepare_update: Some(update),
    prepare_status_update: Some(status_update),
    validate_create: Some(validate::csr::create),
    validate_update: Some(validate::csr::update),
    validate_status_update: Some(validate::csr::status_update),
    selectable_fields,
    selectable_names: &["spec.signerName"],
    columns: columns::plain::CSR,
    row: columns::plain::csr,
    ..Hooks::NONE
};

/// The `approval` subresource: it alone sets the conditions Approved and Denied.
pub(super) const APPROVAL: UpdateHooks =
    UpdateHooks { prepare: approval, validate: Some(validate::csr::approval) };

/// Who asks is written down by the server, whatever the request says.
pub fn set_requester(request: &mut Value, name: &str, uid: &str, groups: &[String], extra: &Value) {
    let spec = metadata::child(request, "spec");
    for (field, value) in [("username", name), ("uid", uid)] {
        if value.is_empty() {
            spec.remove(field);
        } else {
            spec.insert(field.to_owned(), Value::from(value));
        }
    }
    spec.insert("groups".to_owned(), Value::from(groups));
    match extra.as_object() {
        Some(map) if !map.is_empty() => spec.insert("extra".to_owned(), extra.clone()),
        _ => spec.remove("extra"),
    };
}

/// Fills in the times that a client left out of conditions: `lastUpdateTime` now, and
/// `lastTransitionTime` now unless the condition was there with the same status.
pub fn stamp_conditions(new: &mut Value, old: &Value, now: &str) {
    let before = old["status"].items("conditions");
    let status = metadata::child(new, "status");
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else { return };
    for condition in conditions {
        let same = before.iter().find(|one| {
            one.text("type") == condition.text("type")
                && one.text("status") == condition.text("status")
        });
        let since = same
            .and_then(|one| one.opt_text("lastTransitionTime"))
            .filter(|time| !time.is_empty())
            .unwrap_or(now)
            .to_owned();
        for (field, time) in [("lastUpdateTime", now), ("lastTransitionTime", since.as_str())] {
            if condition.text(field).is_empty()
                && let Value::Object(fields) = condition
            {
                fields.insert(field.to_owned(), Value::from(time));
            }
        }
    }
}

fn update(new: &mut Value, old: &Value) {
    prepare::keep_spec(new, old);
    prepare::keep_status(new, old);
}

/// The signer may not touch what the approver decided.
fn status_update(new: &mut Value, old: &Value) {
    prepare::keep_spec(new, old);
    let decided = |condition: &&Value| matches!(condition.text("type"), "Approved" | "Denied");
    let kept = old["status"].items("conditions").iter().filter(decided).cloned();
    let others =
        new["status"].items("conditions").iter().filter(|condition| !decided(condition)).cloned();
    let conditions: Vec<Value> = kept.chain(others).collect();
    if !conditions.is_empty() || new["status"].has("conditions") {
        metadata::child(new, "status").insert("conditions".to_owned(), conditions.into());
    }
}

fn approval(new: &mut Value, old: &Value) {
    let conditions = new["status"].get("conditions").cloned();
    prepare::keep_spec(new, old);
    prepare::keep_status(new, old);
    if let Some(conditions) = conditions {
        metadata::child(new, "status").insert("conditions".to_owned(), conditions);
    } else if new["status"].has("conditions") {
        metadata::child(new, "status").remove("conditions");
    }
}

fn selectable_fields(request: &Value) -> Vec<(&'static str, String)> {
    vec![("spec.signerName", request["spec"].text("signerName").to_owned())]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_gets_its_times() {
        let old = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "lastTransitionTime": "t0"}]}});
        let mut new = json!({"status": {"conditions": [
            {"type": "Approved", "status": "True", "lastUpdateTime": "t1"},
            {"type": "Failed", "status": "True"}]}});
        stamp_conditions(&mut new, &old, "t2");
        assert_eq!(
            new["status"]["conditions"],
            json!([
                {"type": "Approved", "status": "True", "lastUpdateTime": "t1",
                 "lastTransitionTime": "t0"},
                {"type": "Failed", "status": "True", "lastUpdateTime": "t2",
                 "lastTransitionTime": "t2"},
            ])
        );
    }

    #[test]
    fn a_signer_does_not_approve() {
        let old = json!({"spec": {"a": 1}, "status": {}});
        let mut new = json!({"spec": {"a": 2}, "status": {"certificate": "x", "conditions": [
            {"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}});
        status_update(&mut new, &old);
        assert_eq!(
            new,
            json!({"spec": {"a": 1}, "status": {"certificate": "x", "conditions": [
            {"type": "Failed", "status": "True"}]}})
        );
    }
}
