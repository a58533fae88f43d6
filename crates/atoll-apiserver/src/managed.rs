//! managedFields: who wrote which field; the bridge to server-side apply in `atoll_api`.

use atoll_api::apply::{self, ApplyError, Manager, Operation};
use atoll_api::schema::{Definition, drop_zeros};
use serde_json::Value;

use crate::call::Call;
use crate::decode::Expected;
use crate::query::WriteOptions;
use crate::status::Status;

/// Maintains managedFields for a write that is no apply.
pub(crate) fn track(
    call: &Call,
    old: Option<&Value>,
    new: &mut Value,
    options: &WriteOptions,
) -> Result<(), Status> {
    let manager = manager(call, options, Operation::Update);
    apply::update(schema(call)?, old, new, &manager, &call.core.now_text());
    Ok(())
}

/// Merges a configuration into the object as server-side apply does.
pub(crate) fn apply(
    call: &Call,
    old: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let manager = manager(call, options, Operation::Apply);
    let force = options.force.unwrap_or(false);
    let schema = schema(call)?;
    let now = call.core.now_text();
    let mut new = apply::apply(schema, old, config, &manager, force, &now).map_err(failure)?;
    // The applier owns what it stated, also where nothing is stored of it.
    if call.row.custom.is_none() {
        drop_zeros(schema, &mut new);
    }
    Ok(new)
}

/// Whether a configuration fits its type.
pub(crate) fn check(expected: &Expected, config: &Value) -> Result<(), Status> {
    let schema = expected.schema().ok_or_else(Status::unsupported_patch)?;
    apply::check(schema, config).map_err(failure)
}

fn manager(call: &Call, options: &WriteOptions, operation: Operation) -> Manager {
    let name = match options.field_manager.as_str() {
        "" => call.agent(),
        name => name.to_owned(),
    };
    Manager {
        name,
        operation,
        api_version: call.row.api_version(),
        subresource: call.subresource().to_owned(),
    }
}

fn failure(error: ApplyError) -> Status {
    match error {
        ApplyError::Conflict { message, causes } => Status::apply_conflict(&message, &causes),
        ApplyError::Typed(message) => Status::server_error(message),
    }
}

fn schema(call: &Call) -> Result<&Definition, Status> {
    call.row.schema().ok_or_else(|| {
        Status::internal(format!("there is no schema of {}", call.row.qualified_kind()))
    })
}
