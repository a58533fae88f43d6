//! The runtimes with real containers, on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "test support outside of test functions"
)]

mod adoption;
mod cycles;
mod devices;
mod isolation;
mod life;
mod limits;
mod processes;
mod shared;
mod streams;
mod unified;
mod world;
