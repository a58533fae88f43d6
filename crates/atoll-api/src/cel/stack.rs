//! Room for recursion: every walk over an expression is one, and expressions come from outside.

/// Bytes of stack that must be left for one step.
const LEFT_BYTES_MIN: usize = 256 * 1024;
/// Bytes of a further piece of stack.
const PIECE_BYTES: usize = 2 * 1024 * 1024;

/// Runs one step, on a further piece of stack when little is left of this one.
pub(super) fn with_room<R>(step: impl FnOnce() -> R) -> R {
    stacker::maybe_grow(LEFT_BYTES_MIN, PIECE_BYTES, step)
}
