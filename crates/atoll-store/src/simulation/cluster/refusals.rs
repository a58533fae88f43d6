//! Addresses that refuse connections: of members that have ended, and of such that live. And members
//! that end in the worst moment, just after they have voted.

use rand::seq::IteratorRandom as _;

use super::*;
use crate::disk::Crash;

#[cfg(test)]
mod tests;

impl World {
    /// Each of the others finds soon that nothing listens where this one did. It may be back by then.
    pub(super) fn tell_gone(&mut self, id: u64) {
        let others: Vec<_> = self.nodes.keys().copied().filter(|other| *other != id).collect();
        for observer in others {
            self.find_gone(observer, id);
        }
    }

    fn find_gone(&mut self, observer: u64, peer: u64) {
        let after = Duration::from_millis(self.presuming.random_range(1..100));
        self.schedule(after, What::Gone(observer, peer));
    }

    /// Somebody between two members answers in the name of one that lives, or a member has moved: its
    /// address refuses some of the others. Their connections of before may hold, or not.
    pub(super) fn refuse_one(&mut self) {
        if !self.presuming.random_bool(0.1) {
            return;
        }
        let Some(peer) = self.nodes.keys().copied().choose(&mut self.presuming) else { return };
        let others: Vec<_> = self.nodes.keys().copied().filter(|other| *other != peer).collect();
        let (many, cut) = (self.presuming.random_bool(0.5), self.presuming.random_bool(0.5));
        for observer in others {
            if many || self.presuming.random_bool(0.5) {
                self.refuse(observer, peer);
                if cut {
                    self.network.cut.insert((observer, peer));
                }
            }
        }
        self.heal_later(6000);
    }

    /// From now on until the network is healed.
    pub(super) fn refuse(&mut self, observer: u64, peer: u64) {
        self.network.refusing.insert((observer, peer));
        self.find_gone(observer, peer);
    }

    /// Some of what cuts members off answers in their names.
    pub(super) fn refuse_what_is_cut(&mut self) {
        if self.presuming.random_bool(0.5) {
            for (observer, peer) in self.network.cut.clone() {
                self.refuse(observer, peer);
            }
        }
    }

    /// The observer has dialled in vain, and does so again and again.
    pub(super) fn on_gone(&mut self, observer: u64, peer: u64) -> Result<(), String> {
        let ended = self.nodes.get(&peer).is_some_and(|node| node.core.is_none() && !node.gone);
        if ended || self.network.refusing.contains(&(observer, peer)) {
            let after = Duration::from_millis(self.presuming.random_range(25..1000));
            self.schedule(after, What::Gone(observer, peer));
        }
        let Some(node) = self.nodes.get_mut(&observer) else { return Ok(()) };
        if node.paused_until.is_some_and(|until| until > self.now) {
            return Ok(());
        }
        node.set_time(self.now);
        if let Some(core) = &mut node.core {
            core.on_gone(peer);
            core.run();
        }
        self.settle(observer)
    }

    /// Now and then whoever has just voted ends with its vote on the way, and is soon back; whom it
    /// was for may not be heard any more.
    pub(super) fn crash_voters(&mut self) {
        let voted = std::mem::take(&mut lock(&self.ledger).voted);
        for (id, candidate) in voted {
            let often = if self.plan.bug == Some(Bug::ForgetsVote) { 0.7 } else { 0.05 };
            let Some(life) = self.nodes.get(&id).map(|node| node.life) else { continue };
            if self.healed || !self.presuming.random_bool(often) {
                continue;
            }
            let after = Duration::from_millis(self.presuming.random_range(1..30));
            self.schedule(after, What::Crash(id, life));
            if self.presuming.random_bool(0.5) {
                let others = self.nodes.keys().filter(|other| **other != candidate);
                self.network.cut.extend(others.map(|other| (candidate, *other)));
                self.heal_later(4000);
            }
        }
    }

    fn heal_later(&mut self, max_ms: u64) {
        let after = Duration::from_millis(self.presuming.random_range(200..max_ms));
        self.schedule(after, What::Heal(faults::Healing::Network));
    }

    pub(super) fn on_crash(&mut self, id: u64, life: u64) -> Result<(), String> {
        if self.healed || self.nodes.get(&id).is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let crash = if self.presuming.random_bool(0.5) { Crash::Kill } else { Crash::PowerLoss };
        self.crash(id, crash)?;
        let after = Duration::from_millis(self.presuming.random_range(5..60));
        self.schedule(after, What::Restart(id));
        Ok(())
    }
}
