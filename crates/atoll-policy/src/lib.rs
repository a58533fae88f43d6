//! Decides allow or deny: RBAC, the node authorizer's graph, and the built-in roles.
//!
//! Nothing here knows where objects come from. The caller feeds RBAC objects and pods in as
//! they change; questions are answered from the indexes built of them.

pub mod aggregate;
pub mod bootstrap;
mod covers;
mod message;
pub mod node;
pub mod pod_security;
pub mod rbac;
pub mod reconcile;
mod rule;

pub use covers::{covers, escalation_problem};
pub use message::{Request, denied, forbidden};
pub use rule::Rule;
