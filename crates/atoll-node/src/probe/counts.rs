//! How often a pod's probes were made, for `/metrics/probes`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::probe::Kind;

/// Of one probe of one container, over all of its runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub successful: u64,
    pub failed: u64,
}

/// Of all probes of a pod; goes with it. A probe that could not be made counts nowhere.
#[derive(Debug, Default)]
pub struct Counts(Mutex<BTreeMap<(String, Kind), Count>>);

impl Counts {
    pub fn add(&self, container: &str, kind: Kind, success: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry((container.to_owned(), kind)).or_default();
        if success {
            count.successful += 1;
        } else {
            count.failed += 1;
        }
    }

    #[must_use]
    pub fn all(&self) -> BTreeMap<(String, Kind), Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
