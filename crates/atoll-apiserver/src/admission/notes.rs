//! What admission has to say beside yes and no: warnings for the client, annotations for an
//! audit.

use std::sync::{Mutex, PoisonError};

/// Warnings of one request; those beyond are dropped, as a header has no room for them.
const WARNINGS_MAX: usize = 64;

/// The notes of one request. Whoever admits adds to them; the pipeline sends the warnings with
/// the answer, also with a refusal.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Vec<String>>);

impl Notes {
    /// A text for a `Warning:` header. The same text twice is sent once.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// An annotation of the request's audit event. There is no audit log but this one.
    #[allow(clippy::unused_self, reason = "an audit log of the request is to be kept here")]
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        tracing::info!(target: "audit", key, value, "annotated");
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
