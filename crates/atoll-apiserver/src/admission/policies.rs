//! Admission policies in CEL: ValidatingAdmissionPolicy and MutatingAdmissionPolicy.
//!
//! What policies mean is in `atoll_api::cel::admission`; here they are followed from the caches,
//! matched to requests, and given what they ask about.

mod input;
mod kept;
mod mutating;
mod params;
mod status;
mod validating;

use atoll_api::cel::admission::{mutating as changes, validating as checks};
use atoll_api::kinds;

use crate::registry::Registry;

pub(crate) use mutating::mutate;
pub(crate) use status::keep as keep_status;
pub(crate) use validating::validate;

const GROUP: &str = "admissionregistration.k8s.io";

/// The policies of this server, compiled.
pub(crate) struct Policies {
    validating: kept::Kept<checks::Policy>,
    mutating: kept::Kept<changes::Policy>,
}

impl Policies {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            validating: kept::Kept::new(
                registry,
                "validatingadmissionpolicies",
                "validatingadmissionpolicybindings",
                checks::Policy::compile,
            ),
            mutating: kept::Kept::new(
                registry,
                "mutatingadmissionpolicies",
                "mutatingadmissionpolicybindings",
                changes::Policy::compile,
            ),
        }
    }
}

/// The row of policies that validate.
fn validating_row() -> Option<&'static kinds::ResourceInfo> {
    kinds::find(GROUP, "v1", "validatingadmissionpolicies")
}
