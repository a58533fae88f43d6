//! The patches of the API: JSON patch, merge patch and strategic merge patch.
//!
//! Server-side apply, which also arrives as PATCH, is in `apply`.

mod primitive;
mod strategic;

use json_patch::PatchOperation;
use json_patch::jsonptr::Resolve as _;
use serde_json::Value;

pub use strategic::strategic;

/// Operations of one JSON patch; more are refused.
pub const OPERATIONS_MAX: usize = 10_000;

/// What the copies of one JSON patch may add, as upstream has it: each may double the object.
pub const COPIED_BYTES_MAX: usize = 3 << 20;

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
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {0}, exceeding the limit {COPIED_BYTES_MAX}"
    )]
    CopiesTooLarge(usize),
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
        !matches!(self, Self::DoesNotApply { .. } | Self::CopiesTooLarge(_))
    }

    /// Whether a `test` of a JSON patch did not hold.
    #[must_use]
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::DoesNotApply { source }
            if matches!(source.kind, json_patch::PatchErrorKind::TestFailed))
    }
}

/// Applies a JSON patch (RFC 6902). On failure the document is unchanged. As upstream, a `test`
/// for null holds where the field is absent: kube's finalizers are added by it.
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
    let plain = |operation: &PatchOperation| match operation {
        PatchOperation::Copy(_) => false,
        PatchOperation::Test(test) => !test.value.is_null(),
        _ => true,
    };
    if operations.iter().all(plain) {
        return json_patch::patch(document, &operations)
            .map_err(|source| PatchError::DoesNotApply { source });
    }
    let mut patched = document.clone();
    let mut copied = 0_usize;
    for operation in operations.iter() {
        if let PatchOperation::Copy(copy) = operation {
            copied = patched
                .resolve(&copy.from)
                .map_or(copied, |value| copied.saturating_add(written_bytes(value)));
            if copied > COPIED_BYTES_MAX {
                return Err(PatchError::CopiesTooLarge(copied));
            }
        }
        if matches!(operation, PatchOperation::Test(test)
            if test.value.is_null() && lacks(&patched, &test.path))
        {
            continue;
        }
        json_patch::patch(&mut patched, std::slice::from_ref(operation))
            .map_err(|source| PatchError::DoesNotApply { source })?;
    }
    *document = patched;
    Ok(())
}

/// Whether the object at the parent of `path` is there and has no such field.
fn lacks(document: &Value, path: &json_patch::jsonptr::Pointer) -> bool {
    let (Some(parent), Some(field)) = (path.parent(), path.back()) else { return false };
    let parent = document.resolve(parent);
    matches!(parent, Ok(Value::Object(fields)) if !fields.contains_key(&*field.decoded()))
}

/// The length of a value's text, without making it.
fn written_bytes(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting does not fail; were it to, the value would count as too large.
    if serde_json::to_writer(&mut count, value).is_err() { usize::MAX } else { count.0 }
}

/// Applies a merge patch (RFC 7386).
pub fn merge(document: &mut Value, patch: &Value) {
    json_patch::merge(document, patch);
}

#[cfg(test)]
mod tests;
