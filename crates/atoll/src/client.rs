//! The commands for machines without kubectl, in kubectl's words and output.

pub mod apply;
pub mod catalog;
pub mod connect;
pub mod delete;
pub mod events;
pub mod exec;
pub mod get;
pub mod logs;
pub mod output;
pub mod rollout;
pub mod scale;
pub mod table;
