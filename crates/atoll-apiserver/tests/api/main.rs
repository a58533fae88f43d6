//! The API over a real store, asked as clients ask it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, one that does not run says so"
)]

mod addresses;
mod classes;
#[allow(dead_code, reason = "the suite of what is stored uses the rest")]
mod client;
mod corpus;
mod crds;
mod defaults;
mod deletes;
mod discovery;
mod kubectl;
mod lists;
mod local;
mod matrix;
mod policies;
mod property;
mod refusals;
mod rules;
mod samples;
mod services;
mod streams;
mod watches;
mod wire;
mod writes;
