//! Nodes, sandboxes and services on real network namespaces.
//!
//! Every test makes a cluster of its own; without root they are skipped, with a reason.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(clippy::print_stdout, reason = "tests say what they skip and measure")]

mod printing;
mod routing;
mod services;
mod underlay;
mod upkeep;
mod world;
