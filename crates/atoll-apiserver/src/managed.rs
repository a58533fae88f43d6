//! managedFields: who wrote which field; the bridge to server-side apply in `atoll_api`.

use atoll_api::apply::{self, ApplyError, Operation};
use atoll_api::schema::SchemaId;
use serde_json::Value;

use crate::call::Call;
use crate::decode::Expected;
use crate::query::WriteOptions;
use crate::status::Status;

/// Maintains managedFields for a write that is no apply.
pub fn track(
    call: &Call,
    old: Option<&Value>,
    new: &mut Value,
    options: &WriteOptions,
    operation: Operation,
) -> Result<(), Status> {
    let schema = schema(call)?;
    let manager = call.manager(options, operation);
    apply::update(schema, old, new, &manager, &call.core.now_text());
    Ok(())
}

/// Merges a configuration into the object as server-side apply does.
pub fn apply(
    call: &Call,
    old: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    if config["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let schema = schema(call)?;
    let manager = call.manager(options, Operation::Apply);
    let force = options.force.unwrap_or(false);
    apply::apply(schema, old, config, &manager, force, &call.core.now_text())
        .map_err(|error| failure(&error))
}

fn failure(error: &ApplyError) -> Status {
    match error {
        ApplyError::Conflict { .. } => Status::apply_conflict(&error.to_string(), &[]),
        ApplyError::Typed(message) => Status::server_error(message.clone()),
    }
}

fn schema(call: &Call) -> Result<SchemaId, Status> {
    let expected = Expected::of_row(call.row);
    expected.schema().ok_or_else(|| {
        Status::internal(format!("there is no schema of {}", call.row.qualified_kind()))
    })
}
