//! The meaning of API objects: kinds, names, defaults, validation, patches, schemas.
//!
//! Objects are trees of JSON beside a table of schemas; everything here is a pure function of
//! its arguments. Nothing here knows a store, a clock or a socket.

pub mod access;
pub mod apply;
pub mod cel;
pub mod columns;
pub mod cron;
pub mod defaults;
pub mod field;
pub mod go_time;
pub mod kinds;
pub mod names;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod structural;
pub mod tree;
pub mod validate;

/// An API object as a tree.
pub type Object = serde_json::Value;
