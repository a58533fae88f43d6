//! Several servers in one process, connected as in life: real threads, files and TLS connections.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod life;
mod servers;
mod stress;
