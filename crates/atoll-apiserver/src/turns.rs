//! Whose turn it is to write, where several want to change the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_api::kinds::ResourceInfo;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::call::Call;
use crate::core::Core;

/// Names whose turns are kept; unused ones are dropped beyond this.
const KEPT_MAX: usize = 1024;

/// How long a write is tried again while others come first. Upstream goes on until the request's
/// time is up (`GuaranteedUpdate`), which is a minute; clients wait for less.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long it waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(2);

/// Whose turn it is, by the name of what is written.
#[derive(Default)]
pub struct Turns {
    by_name: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    pub(crate) async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut all = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= KEPT_MAX {
                all.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            all.entry(name.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// The tries of one write that reads an object, changes it and stores it if nobody else has.
///
/// The first one asks nobody. Whoever met another then takes turns with all on this server who
/// did: those of a crowd end one after the other, instead of chance deciding each time.
pub(crate) struct Attempts<'a> {
    core: &'a Core,
    name: String,
    begun: Instant,
    is_first: bool,
    turn: Option<OwnedMutexGuard<()>>,
}

impl<'a> Attempts<'a> {
    /// For the object that the call names.
    pub(crate) fn new(call: &'a Call) -> Self {
        Self::on(&call.core, &call.row, call.namespace(), call.name())
    }

    pub(crate) fn on(core: &'a Core, row: &ResourceInfo, namespace: &str, name: &str) -> Self {
        let name = format!("{}/{}/{namespace}/{name}", row.group, row.resource);
        Self { core, name, begun: Instant::now(), is_first: true, turn: None }
    }

    /// Waits until the next try may begin; false when it is too late for one.
    pub(crate) async fn next(&mut self) -> bool {
        if std::mem::take(&mut self.is_first) {
            return true;
        }
        let left = PATIENCE.saturating_sub(self.begun.elapsed());
        if self.turn.is_none() && !left.is_zero() {
            // Who waits in vain, since another's webhook takes its time, tries without a turn.
            let turn =
                tokio::time::timeout(left.min(TURN_WITHIN), self.core.writes.take(&self.name));
            self.turn = turn.await.ok();
        }
        !left.is_zero()
    }
}
