//! Answers in protobuf, made of the messages that a cache keeps.

use std::sync::Arc;

use atoll_api::kinds::ResourceInfo;
use atoll_api::proto::{self, ApiVersionKind};
use bytes::Bytes;

use super::ListMeta;
use crate::cache::Entry;
use crate::status::Status;

/// One object in its envelope.
pub(crate) fn object(row: &ResourceInfo, entry: &Entry) -> Result<Bytes, Status> {
    let named = ApiVersionKind { api_version: row.api_version(), kind: row.kind.to_string() };
    Ok(proto::seal(&named, &entry.proto_for(row)?).into())
}

/// A list of them.
pub(super) fn list(
    row: &ResourceInfo,
    entries: &[Arc<Entry>],
    meta: &ListMeta,
) -> Result<Bytes, Status> {
    // A message is smaller than its JSON.
    let size = entries.iter().map(|entry| entry.json.len()).sum();
    let meta = meta.to_value();
    let mut list = proto::List::new(&row.api_version(), &row.list_kind, &meta, size)
        .map_err(Status::internal)?;
    for entry in entries {
        list.push(&entry.proto_for(row)?);
    }
    Ok(list.finish().into())
}
