//! The parameters of a policy: objects of any kind that a binding names or selects.

use atoll_api::access::Access as _;
use atoll_api::kinds::Row;
use atoll_api::selector::LabelSelector;
use serde_json::Value;

use super::super::AdmissionRequest;
use super::kept::{Binding, Hook, ParamKind};
use crate::core::Core;

/// The resource of a kind, when it is served.
pub(super) fn row(core: &Core, kind: &ParamKind) -> Option<Row> {
    core.registry.rows().find(|row| kind.is(&row.group, &row.version, &row.kind))
}

/// A policy whose parameters are of no known kind cannot be asked.
pub(super) fn check<P>(core: &Core, hook: &Hook<P>) -> Result<(), String> {
    match &hook.param_kind {
        Some(kind) if row(core, kind).is_none() => {
            Err(format!("failed to find resource referenced by paramKind: '{}'", kind.shown()))
        }
        _ => Ok(()),
    }
}

/// The policy runs once for each; null stands for none at all. Empty when there are none and
/// the binding lets that pass.
pub(super) async fn collect<P>(
    core: &Core,
    request: &AdmissionRequest<'_>,
    hook: &Hook<P>,
    binding: &Binding,
) -> Result<Vec<Value>, String> {
    let param = &binding.param_ref;
    let Some(kind) = hook.param_kind.as_ref().filter(|_| param.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let Some(row) = row(core, kind) else {
        let shown = format!("&ParamKind{{APIVersion:{},Kind:{},}}", kind.api_version, kind.kind);
        return Err(format!("paramKind kind `{shown}` not known"));
    };
    let namespace = place(request, &row, param)?;
    let found = if param.text("name").is_empty() {
        select(core, &row, namespace, param)?
    } else {
        one(core, &row, namespace, param.text("name")).await?
    };
    if found.is_empty() && param.text("parameterNotFoundAction") == "Deny" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned()
        );
    }
    Ok(found)
}

/// The namespace of the parameters: the binding's, or that of the request.
fn place<'a>(
    request: &AdmissionRequest<'a>,
    row: &Row,
    param: &'a Value,
) -> Result<&'a str, String> {
    let stated = param.text("namespace");
    if !row.namespaced() {
        if stated.is_empty() {
            return Ok("");
        }
        return Err(
            "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()
        );
    }
    if !stated.is_empty() {
        return Ok(stated);
    }
    if request.namespace.is_empty() {
        return Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped \
                    resources"
                .to_owned(),
        );
    }
    Ok(request.namespace)
}

/// From memory, or from the store for one that was created a moment ago.
async fn one(core: &Core, row: &Row, namespace: &str, name: &str) -> Result<Vec<Value>, String> {
    let cached = core.registry.cache(row).and_then(|cache| cache.get(namespace, name));
    if let Some(entry) = cached {
        return Ok(vec![entry.object(row).map_err(|status| status.to_string())?]);
    }
    let stored =
        core.storage.get(row, namespace, name).await.map_err(|status| status.to_string())?;
    match stored {
        Some(stored) => Ok(vec![stored.object(row).map_err(|status| status.to_string())?]),
        None => Ok(Vec::new()),
    }
}

fn select(core: &Core, row: &Row, namespace: &str, param: &Value) -> Result<Vec<Value>, String> {
    let selector =
        LabelSelector::from_object(&param["selector"]).map_err(|error| error.to_string())?;
    let Some(cache) = core.registry.cache(row) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in cache.list(namespace) {
        if selector.matches(|key| entry.label(key)) {
            found.push(entry.object(row).map_err(|status| status.to_string())?);
        }
    }
    Ok(found)
}
