//! What goes with objects into the store: quotas that are charged, values that are sealed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, one that does not run says so"
)]

#[path = "../api/client.rs"]
#[allow(dead_code, reason = "it serves the tests of the API")]
mod client;
mod quota;
mod sealed;
