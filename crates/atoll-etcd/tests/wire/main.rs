//! The etcd API as it is on the wire: bare messages to our server and to a real etcd, answers
//! compared field by field; and what only a connection shows, such as deadlines and pings.
//!
//! `ATOLL_WIRE_SEEDS=100` tries more than the sample, `ATOLL_WIRE_SEED=7` one.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a test that cannot go on panics, one that does not run says so, and reads its seed"
)]

#[path = "../conformance/certificates.rs"]
#[allow(dead_code, reason = "shared with the conformance suite")]
mod certificates;
mod connections;
#[path = "../conformance/etcd.rs"]
#[allow(dead_code, reason = "shared with the conformance suite")]
mod etcd;
mod gateway;
mod locks;
mod malformed;
mod members;
mod minority;
mod plan;
mod random;
#[path = "../surroundings/raw.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod raw;
#[path = "../surroundings/served.rs"]
#[allow(dead_code, reason = "shared with other suites")]
mod served;
mod side;
mod streams;
mod surface;
mod watching;
