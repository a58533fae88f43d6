//! The runtimes with real containers, on this machine.

mod life;
mod world;
