//! Admission webhooks: servers outside that change or refuse objects.
//!
//! Mutating ones are asked one after the other, each with what those before it made of the
//! object; validating ones all at once, with the final object. Which ones there are is read
//! from the caches whenever their configurations have changed.

mod conditions;
mod configured;
mod mutating;
mod one;
mod review;
mod validating;

use atoll_api::kinds::ResourceInfo;
use atoll_api::kinds::webhooks::is_unseen;

use super::matching;

#[doc(hidden)]
pub use configured::Version;
pub(crate) use configured::Webhooks;
pub(super) use mutating::mutate;
pub(super) use validating::validate;

#[doc(hidden)]
pub use review::{Verdict, read as read_answer};

/// Upstream's name of the plugin.
const MUTATING: &str = "MutatingAdmissionWebhook";

/// Resources that are never shown to webhooks: their own configurations, and the questions
/// without whose answers nobody could repair them.
fn is_out_of_reach(row: &ResourceInfo) -> bool {
    matching::is_exempt(row) || is_unseen(&row.group, &row.resource)
}
