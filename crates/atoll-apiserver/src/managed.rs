//! managedFields: who wrote which field; the bridge to server-side apply in `atoll_api`.

use atoll_api::schema::SchemaId;
use serde_json::Value;

use crate::call::Call;
use crate::query::WriteOptions;
use crate::status::Status;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Update,
}

/// Maintains managedFields for a write that is no apply.
pub fn track(
    _: &Call,
    _: Option<&Value>,
    _: &mut Value,
    _: &WriteOptions,
    _: Operation,
) -> Result<(), Status> {
    Ok(())
}

/// Merges a configuration into the object as server-side apply does.
pub fn apply(
    _: &Call,
    _: Option<&Value>,
    _: &Value,
    _: &WriteOptions,
) -> Result<Value, Status> {
    let _: Option<SchemaId> = None;
    Err(Status::unsupported_patch())
}
