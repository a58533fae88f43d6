//! The patches of the API: JSON patch, merge patch and strategic merge patch.
//!
//! Server-side apply, which also arrives as PATCH, is in `apply`.

mod primitive;
mod strategic;

use serde_json::Value;

pub use strategic::strategic;

/// Operations of one JSON patch; more are refused.
pub const OPERATIONS_MAX: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The patch itself cannot be read.
    #[error("{0}")]
    Malformed(String),
    #[error("the patch has {0} operations; at most {OPERATIONS_MAX} are taken")]
    TooManyOperations(usize),
    /// A path or test of a JSON patch does not hold.
    #[error("the patch does not apply to the object")]
    DoesNotApply {
        #[source]
        source: json_patch::PatchError,
    },
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: Value, key: String },
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: Value, map: Value },
    #[error("{0}")]
    BadDirective(String),
}

impl PatchError {
    /// Whether the patch is wrong in itself, whatever the object.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        !matches!(self, Self::DoesNotApply { .. })
    }
}

/// Applies a JSON patch (RFC 6902). On failure the document is unchanged.
///
/// # Errors
///
/// When the patch is malformed, or a path or test does not hold.
pub fn json(document: &mut Value, patch: &Value) -> Result<(), PatchError> {
    if let Some(operations) = patch.as_array()
        && operations.len() > OPERATIONS_MAX
    {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|error| PatchError::Malformed(error.to_string()))?;
    json_patch::patch(document, &operations).map_err(|source| PatchError::DoesNotApply { source })
}

/// Applies a merge patch (RFC 7386).
pub fn merge(document: &mut Value, patch: &Value) {
    json_patch::merge(document, patch);
}

#[cfg(test)]
mod tests;
