//! Runs the real program as a user would, for tests against outside programs.
//!
//! A [`Cluster`] is `atoll dev` in a folder of its own. Dropping it sends SIGINT, as
//! Ctrl-C does, and waits until everything that it made is gone.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test harness: what goes wrong here fails a test, and tests may block"
)]

pub mod clock;
pub mod cluster;
pub mod console;
pub mod disk;
pub mod forwarder;
pub mod history;
pub mod http;
pub mod image;
pub mod lab;
pub mod system;
pub mod wait;

pub use cluster::{Cluster, Output};
pub use wait::eventually;

/// Whether tests that need root can run. Elsewhere they say that they were skipped; under
/// CI it is an error to come here without root.
#[must_use]
pub fn is_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test} needs root, and CI must give it");
    eprintln!("{test}: skipped, it needs root");
    false
}
