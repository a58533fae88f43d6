//! Custom resources: from definitions in the store to rows in the table, and what keeps the
//! definitions' own status.
//!
//! Definitions come by the store's watch like everything, so every server has the same rows.

pub(crate) mod convert;
mod instances;
mod names;
pub(crate) mod status;

use std::collections::HashMap;
use std::sync::Arc;

use atoll_api::access::Access as _;
use atoll_api::kinds::{ResourceInfo, Row, extensions};
use atoll_api::structural;
use serde_json::Value;

use crate::cache::Entry;
use crate::status::Status;

/// What the rows of one definition are made of. Equal origins make equal rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Origin(Arc<Value>);

/// Whether a row is that of the definitions.
pub(crate) fn defines(row: &ResourceInfo) -> bool {
    row.group == "apiextensions.k8s.io" && row.resource == "customresourcedefinitions"
}

/// The definitions that are established, by name.
pub(crate) fn origins(definitions: impl IntoIterator<Item = Value>) -> HashMap<String, Origin> {
    let established = definitions.into_iter().filter(|crd| extensions::is(crd, "Established"));
    established.map(|crd| (crd["metadata"].text("name").to_owned(), Origin::new(&crd))).collect()
}

impl Origin {
    fn new(crd: &Value) -> Self {
        let metadata = &crd["metadata"];
        Self(Arc::new(serde_json::json!({
            "metadata": {
                "name": metadata["name"],
                "uid": metadata["uid"],
                "deletionTimestamp": metadata["deletionTimestamp"],
            },
            "spec": crd["spec"],
            "status": {"acceptedNames": crd["status"]["acceptedNames"]},
        })))
    }

    /// The rows, one a version.
    pub(crate) fn rows(&self) -> Vec<Row> {
        structural::rows(&self.0).into_iter().map(Row::from).collect()
    }
}

/// An object of a custom resource that cannot be read does not keep the others from it.
pub(crate) fn readable(entry: Result<Entry, Status>, key: &str) -> Option<Entry> {
    entry.inspect_err(|error| tracing::error!(%error, key, "an object is unreadable")).ok()
}
