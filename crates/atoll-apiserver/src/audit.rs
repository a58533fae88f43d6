//! The audit log: who asked for what, and what became of it, as a policy wants it kept.
//!
//! A policy gives each request a level; by it an event is written as a line of JSON when the
//! request has come, when a long answer begins, and when the answer is complete. Lines go
//! through a queue to one writer; a request waits for room in it, but not for long: rather than
//! stop the cluster because a disk is full, events are then dropped, counted, and said to be.

mod event;
mod log;
pub mod policy;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Clock;

pub(crate) use event::Trail;
pub use log::LogConfig;
pub use policy::{Policy, PolicyError};

use log::Log;

/// What is kept, and where.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    pub policy: Arc<Policy>,
    pub log: LogConfig,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
#[error("opening the audit log {}", path.display())]
pub struct AuditError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// The audit of one server.
pub(crate) struct Audit {
    policy: Arc<Policy>,
    log: Log,
}

impl Audit {
    pub(crate) fn start(config: &AuditConfig, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let log = Log::start(&config.log, clock);
        let log = log.map_err(|source| AuditError { path: config.log.path.clone(), source })?;
        Ok(Self { policy: config.policy.clone(), log })
    }

    /// Events that were not written, for want of room or because writing failed.
    pub(crate) fn dropped(&self) -> u64 {
        self.log.dropped()
    }

    /// Writes what is there and ends.
    pub(crate) async fn close(&self) {
        self.log.close().await;
    }
}
