//! Who is let in, and what they may do, over real TLS.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at what it does not expect, and says why it skips"
)]

mod access;
mod admission;
mod bypass;
mod client;
mod hostile;
mod joining;
mod kubectl;
mod nodes;
mod renewal;
mod tokens;
mod verbs;
