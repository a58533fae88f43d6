//! States on their way from and to other members.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::peers::Message;
use super::{Arrived, Core};
use crate::backend::{KEYSPACES, Meta};
use crate::cluster::OutgoingSnapshot;
use crate::snapshot::whole::WholeCopy;
use crate::sync::{read, write};

impl Core {
    pub(super) fn meta(&self, installed: bool) -> Meta {
        let mut keyspaces = [(0, 0); KEYSPACES];
        for (slot, keyspace) in keyspaces.iter_mut().zip(&self.shared.keyspaces) {
            let state = read(&keyspace.state);
            *slot = (state.revision, state.compacted);
        }
        Meta {
            applied: self.applied,
            chain: self.chain,
            installed,
            roster: self.roster.clone(),
            keyspaces,
        }
    }

    /// Sends the state as it is now, between two applies.
    pub(super) fn send_snapshot(&mut self, to: u64, message: Bytes) {
        tracing::info!(to, index = self.applied.index, "sending the state to a member");
        let copy = WholeCopy::begin(self.meta(true).encode(), &self.shared.keyspaces);
        let message = Message::Raft(message).encode();
        self.net.send_snapshot(OutgoingSnapshot { to, message, content: Box::new(copy.chunks()) });
    }

    /// A state is here whole; consensus decides whether it is wanted.
    pub(crate) fn on_arrived(&mut self, arrived: Arrived) {
        if self.failed() || self.arrived.is_some() || self.roster.removed.contains(&arrived.from) {
            return;
        }
        let from = arrived.from;
        let message = Message::decode(arrived.message.clone());
        let Ok(Message::Raft(message)) = message else {
            tracing::warn!(from, "a state came with a message that is not understood");
            return;
        };
        self.arrived = Some(arrived);
        self.step(from, &message);
        self.run();
        if !self.journal.is_installing() {
            // It was too old, or not needed any more.
            self.arrived = None;
        }
    }

    /// The state that arrived is this member's from now on; it is durable.
    pub(super) fn take_over(&mut self) {
        let Some(arrived) = self.arrived.take() else {
            self.fail_with("a state was to be installed that is not there".to_owned());
            return;
        };
        let Arrived { backend, states, meta, .. } = arrived;
        tracing::info!(index = meta.applied.index, "a state from another member was installed");
        for (keyspace, state) in self.shared.keyspaces.iter().zip(states) {
            let revision = state.revision;
            // Freed when readers no longer wait.
            let replaced = std::mem::replace(&mut *write(&keyspace.state), state);
            keyspace.hub.jump(revision);
            drop(replaced);
        }
        self.retired = Some(std::mem::replace(&mut self.backend, Arc::new(backend)));
        self.withheld.clear();
        self.withheld_until = None;
        self.applied = meta.applied;
        self.chain = meta.chain;
        self.note_chain();
        self.roster = meta.roster;
        self.unsaved = true;
        self.dirty_since = Some(self.clock.now());
        self.restart_leases(self.clock.now());
        self.shared.cluster.set_removed(&self.roster.removed);
        self.tell_peers();
        self.give_up_installed();
        self.begin_rewrite_again();
    }

    /// Every lease has what it had at its last checkpoint, from `now` on.
    pub(super) fn restart_leases(&mut self, now: Duration) {
        for code in 0..KEYSPACES {
            self.restart_keyspace_leases(code, now);
        }
    }

    pub(super) fn restart_keyspace_leases(&self, code: usize, now: Duration) {
        let Some(keyspace) = self.shared.keyspaces.get(code) else { return };
        let state = read(&keyspace.state);
        self.shared.with_leases(code, |clock| {
            *clock = crate::lease::LeaseClock::default();
            for (id, lease) in &state.leases {
                clock.start(*id, lease.ttl, lease.remaining, now);
            }
        });
    }
}
