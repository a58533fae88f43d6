//! What belongs to one request on its way through the server and is nobody's argument: notes of
//! admission, its trail for the audit, where fairness put it.

use std::sync::{Arc, OnceLock};

use http::request::Parts;
use http::{HeaderName, HeaderValue};
use jiff::Timestamp;

use crate::admission::notes::Notes;
use crate::audit::Trail;
use crate::fairness::Sorted;

pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// An extension of every request.
#[derive(Clone)]
pub(crate) struct Course(Arc<Inner>);

struct Inner {
    audit_id: HeaderValue,
    received: Timestamp,
    notes: Arc<Notes>,
    trail: OnceLock<Arc<Trail>>,
    sorted: OnceLock<Sorted>,
}

impl Course {
    pub(crate) fn new(head: &Parts, received: Timestamp) -> Self {
        let stated = head.headers.get(AUDIT_ID).filter(|id| id.to_str().is_ok()).cloned();
        let audit_id = stated
            .or_else(|| HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).ok())
            .unwrap_or(HeaderValue::from_static(""));
        let (notes, trail, sorted) = (Arc::default(), OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { audit_id, received, notes, trail, sorted }))
    }

    pub(crate) fn of(head: &Parts) -> Option<Self> {
        head.extensions.get::<Self>().cloned()
    }

    pub(crate) fn audit_id(&self) -> &HeaderValue {
        &self.0.audit_id
    }

    pub(crate) fn received(&self) -> Timestamp {
        self.0.received
    }

    pub(crate) fn notes(&self) -> &Arc<Notes> {
        &self.0.notes
    }

    pub(crate) fn trail(&self) -> Option<&Arc<Trail>> {
        self.0.trail.get()
    }

    pub(crate) fn keep_trail(&self, trail: Trail) -> &Arc<Trail> {
        self.0.trail.get_or_init(|| Arc::new(trail))
    }

    pub(crate) fn sorted(&self) -> Option<&Sorted> {
        self.0.sorted.get()
    }

    pub(crate) fn keep_sorted(&self, sorted: Sorted) {
        // A request is sorted once.
        self.0.sorted.get_or_init(|| sorted);
    }
}
