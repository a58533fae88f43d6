//! The image store with real archives, mounts and registries.

mod archives;
mod fixture;
mod registries;
