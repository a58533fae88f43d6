//! Room in the keyspaces: history that goes by itself, and writes that found none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Core, Proposal};
use crate::backend::KEYSPACES;
use crate::embedded::StoreConfig;
use crate::mvcc::{Command, State};
use crate::retention::{Keeper, Pressure};
use crate::shared::KeyspaceShared;
use crate::sync::read;

pub(super) fn keepers(
    config: &StoreConfig,
    now: Duration,
    keyspaces: &[Arc<KeyspaceShared>; KEYSPACES],
) -> [Keeper; KEYSPACES] {
    std::array::from_fn(|code| {
        let revision = read(&keyspaces[code].state).revision;
        Keeper::new(config.limits(code), now, revision)
    })
}

impl Core {
    /// Every member remembers; only the leader compacts.
    pub(super) fn keep_history(&mut self, now: Duration) {
        let mut proposals = Vec::new();
        for code in 0..KEYSPACES {
            let keyspace = self.shared.keyspaces[code].clone();
            let state = read(&keyspace.state);
            let pressure = self.pressure(code, &state);
            let seen = (state.revision, state.compacted);
            if self.keepers[code].next_look(seen, pressure).is_none_or(|at| at > now) {
                continue;
            }
            let target = self.keepers[code].look(now, seen, pressure, |to| state.frees(to));
            if let Some(revision) = target.filter(|_| self.standing.is_leader) {
                let command = Command::Compact { revision };
                proposals.push(Proposal { keyspace: code, command, added_bytes: 0, reply: None });
            }
        }
        if !proposals.is_empty() {
            self.submit(proposals);
        }
    }

    pub(super) fn next_look(&self) -> Option<Duration> {
        let looks = (0..KEYSPACES).filter_map(|code| {
            let state = read(&self.shared.keyspaces[code].state);
            let seen = (state.revision, state.compacted);
            self.keepers[code].next_look(seen, self.pressure(code, &state))
        });
        looks.min()
    }

    fn pressure(&self, code: usize, state: &State) -> Pressure {
        let limits = self.config.limits(code);
        let refused = &self.shared.keyspaces[code].refused_bytes;
        let used = state.used_bytes();
        if used + refused.load(Ordering::Relaxed) <= limits.quota_bytes {
            refused.store(0, Ordering::Relaxed);
        }
        let refuses = refused.load(Ordering::Relaxed) > 0;
        limits.pressure(used, refuses || limits.is_full(used, self.config.request_bytes_max))
    }

    /// Why there is no room for it in its keyspace, if so.
    pub(super) fn lacks_room(&self, proposal: &Proposal, used: u64) -> Option<String> {
        let limits = self.config.limits(proposal.keyspace);
        let quota = limits.quota_bytes;
        let is_full = limits.is_full(used, self.config.request_bytes_max);
        if !proposal.is_ordinary() || (!is_full && used + proposal.added_bytes <= quota) {
            return None;
        }
        self.note_refused(proposal);
        Some(format!(
            "{used} of {quota} bytes are taken; delete what nobody needs, which always goes through"
        ))
    }

    /// There was no room for it in its keyspace.
    fn note_refused(&self, proposal: &Proposal) {
        if let Some(keyspace) = self.shared.keyspaces.get(proposal.keyspace) {
            keyspace.refused_bytes.store(proposal.added_bytes, Ordering::Relaxed);
        }
    }
}
