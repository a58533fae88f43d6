//! What admission has to say beside yes and no: warnings for the client, annotations for an
//! audit.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Warnings of one request; those beyond are dropped, as a header has no room for them.
const WARNINGS_MAX: usize = 64;

/// Annotations of one request; those beyond are dropped.
const ANNOTATIONS_MAX: usize = 256;

/// The notes of one request. Whoever admits adds to them; the pipeline sends the warnings with
/// the answer, also with a refusal, and keeps the annotations with the audit event.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    warnings: Vec<String>,
    annotations: Vec<Annotation>,
}

/// One annotation of an audit event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Annotation {
    pub key: String,
    pub value: String,
    /// Shows something of the objects themselves: only for events that show these.
    pub contents: bool,
}

impl Notes {
    /// A text for a `Warning:` header. The same text twice is sent once.
    pub(crate) fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let warnings = &mut self.noted().warnings;
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// An annotation of the request's audit event. The first value of a key stays.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        self.add(key, value, false);
    }

    /// One that shows something of the objects, as a patch does.
    pub(crate) fn annotate_contents(&self, key: &str, value: &str) {
        self.add(key, value, true);
    }

    fn add(&self, key: &str, value: &str, contents: bool) {
        let annotations = &mut self.noted().annotations;
        let known = annotations.iter().any(|one| one.key == key);
        if annotations.len() < ANNOTATIONS_MAX && !known {
            let (key, value) = (key.to_owned(), value.to_owned());
            annotations.push(Annotation { key, value, contents });
        }
    }

    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.noted().warnings)
    }

    /// What there is to say of the request so far.
    pub(crate) fn annotations(&self) -> Vec<Annotation> {
        self.noted().annotations.clone()
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
