//! Atoll's store: a multi-version key-value map with transactions, watches and leases,
//! replicated by Raft and kept on disk by a write-ahead log of its own.
//!
//! The way in is [`kv::KvStore`]; [`embedded::EmbeddedStore`] gives it over a folder. Everything
//! below is written as step functions over the traits [`disk::Disk`] and [`clock::Clock`]:
//! threads only drive them, so the simulator in [`simulation`] runs the very same code with
//! virtual time and failing disks.

mod backend;
pub mod clock;
pub mod cluster;
mod codec;
pub mod consensus;
mod core;
pub mod disk;
pub mod embedded;
mod folder;
#[doc(hidden)]
pub mod fuzz;
pub mod kv;
mod lease;
mod mvcc;
mod newer;
pub mod restore;
mod retention;
mod shared;
pub mod simulation;
mod snapshot;
mod sync;
#[doc(hidden)]
pub mod testing;
mod times;
pub mod transport;
pub mod wal;
mod watch;

pub use embedded::{EmbeddedStore, Keyspace, OpenError, Snapshots, StoreConfig, StoreSnapshot};
pub use newer::Newer;
pub use retention::{KeyspaceLimits, Retention};
pub use times::{DiskTimes, TimesSeen};
