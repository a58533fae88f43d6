//! A leader whose process has ended: its address refuses connections, and nothing is heard of it.
//! Nobody need wait for it as long as for one that may only be slow.
//!
//! Whoever is wrong about it disturbs nobody: the others ignore who wants to lead as long as they
//! hear their leader, and reads are confirmed by a majority, not by time.

use std::time::Duration;

use super::Core;
use super::health::TICK;

/// Who seems to have ended, and since when.
#[derive(Debug, Default)]
pub(super) struct Gone(Option<(u64, Duration)>);

impl Gone {
    /// It lives.
    pub(super) fn hear(&mut self, peer: u64) {
        self.0.take_if(|(gone, _)| *gone == peer);
    }
}

impl Core {
    /// Nothing listens at the address of this peer.
    pub(crate) fn on_gone(&mut self, peer: u64) {
        let standing = self.standing;
        if standing.is_leader || standing.leader != peer {
            return;
        }
        if self.health.gone.0.is_none_or(|(gone, _)| gone != peer) {
            self.health.gone.0 = Some((peer, self.clock.now()));
        }
    }

    /// A leader that lives would have been heard of within a tick.
    pub(super) fn give_up_gone(&mut self, now: Duration) {
        let Some((peer, _)) = self.health.gone.0.take_if(|(_, since)| *since + TICK <= now) else {
            return;
        };
        if self.standing.leader == peer {
            tracing::info!(
                leader = format!("{peer:x}"),
                "the leader seems to have ended; it is not waited for"
            );
            self.consensus.leader_ended(peer);
        }
    }
}
