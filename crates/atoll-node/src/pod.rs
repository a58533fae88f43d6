//! One pod on this node: what it asks for, what is seen of it, and what to do about it.
//!
//! The submodules without I/O decide (`decide`, `status`, `refuse`, `resize`, …); `task`,
//! `start`, `stop` and `sandbox` act.

pub mod actions;
pub mod actuate;
pub mod admit;
pub mod backoff;
pub mod decide;
pub mod ending;
pub mod env;
pub mod ephemeral;
pub mod files;
pub mod identity;
pub mod image;
pub mod image_volume;
pub mod lifecycle;
pub mod messages;
pub mod probing;
pub mod qos;
pub mod refuse;
pub mod resize;
pub mod sandbox;
pub mod security;
pub mod spec;
pub mod start;
pub mod status;
pub mod status_writer;
pub mod stop;
pub mod task;
pub mod track;
