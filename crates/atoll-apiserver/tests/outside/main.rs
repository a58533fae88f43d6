//! The API server and servers outside of it: webhooks, API servers behind it, what it keeps of
//! who asked, and who has to wait.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    dead_code,
    reason = "a test that cannot go on panics; the client is shared with other suites"
)]

mod aggregate;
mod audit;
#[path = "../api/client.rs"]
mod client;
mod conversion;
mod drain;
mod fairness;
mod hooked;
mod kubectl;
mod webhooks;
mod webhooks_everywhere;
