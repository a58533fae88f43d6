//! The connections between members, over real sockets on loopback, with stores that only note
//! what they are told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod delivery;
mod hostile;
mod server;
mod snapshots;
mod trust;
