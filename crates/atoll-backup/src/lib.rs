//! The file of a backup: what is in it, and how it is locked.
//!
//! Outside it is an age file (<https://age-encryption.org/v1>), so that age's own tools open it
//! too; inside, [`archive`] puts a description and the cluster's keys before the store's
//! snapshot. Nothing here reads or writes anything but bytes that are handed in.

pub mod age;
pub mod archive;
