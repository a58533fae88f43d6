//! The image store with real archives, mounts and registries.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "test support outside of test functions"
)]

mod archives;
mod fixture;
mod registries;
