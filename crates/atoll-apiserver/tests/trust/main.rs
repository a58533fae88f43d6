//! Who is let in, and what they may do, over real TLS.

mod access;
mod client;
mod joining;
mod nodes;
mod tokens;
