//! What the leader does about members: adds, promotes, removes and renames them, hands its place
//! over.

use std::time::Duration;

use super::peers::Message;
use super::propose::Held;
use super::system::{SystemCommand, encode_context, encode_system};
use super::{Ask, AskReply, AskResult, Core, Told};
use crate::backend::Roster;
use crate::cluster::{Member, Progress};
use crate::consensus::{ConsensusError, MemberChange};
use crate::kv::Error;

/// A learner that is no further behind is promoted.
const BEHIND_MAX: u64 = 256;
/// How often a member that is known by another name or address says so.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);

/// How often a member that is not heard of is told who there is.
const INTRODUCE_EVERY: Duration = Duration::from_secs(1);

pub(super) const REMOVED: &str = "this server was removed from the cluster; \
    remove its data folder and join again to become a new member";

impl Core {
    pub(super) fn add_learner(&mut self, member: Member, reply: AskReply) {
        if self.roster.removed.contains(&member.id) {
            let detail = format!("the member id {:x} was removed before", member.id);
            self.reply(reply, Err(Error::Unavailable { detail }));
        } else if let Some(known) = self.roster.members.get(&member.id).cloned() {
            self.reply(reply, Ok(Told::Member(known)));
        } else {
            let member = Member { is_learner: true, ..member };
            self.change(MemberChange::AddLearner(member.id), Some(member), reply);
        }
    }

    pub(super) fn promote(&mut self, id: u64, reply: AskReply) {
        if self.roster.is_voter(id) {
            self.reply(reply, Ok(Told::Done));
        } else if !self.roster.members.contains_key(&id) {
            self.reply(reply, unknown(id));
        } else if !self.has_caught_up(id) {
            let detail = format!("member {id:x} is still behind; it is promoted when it is not");
            self.reply(reply, Err(Error::Unavailable { detail }));
        } else {
            self.change(MemberChange::Promote(id), None, reply);
        }
    }

    pub(super) fn remove(&mut self, id: u64, reply: AskReply) {
        if self.roster.removed.contains(&id) {
            self.reply(reply, Ok(Told::Done));
        } else if !self.roster.members.contains_key(&id) {
            self.reply(reply, unknown(id));
        } else if let Err(error) = self.check_removal(id) {
            self.reply(reply, Err(error));
        } else if id == self.member_id {
            // Whoever leads then removes it.
            let result = match self.begin_transfer(None) {
                Ok(()) => Err(Error::NoLeader),
                Err(result) => result,
            };
            self.reply(reply, result);
        } else {
            self.change(MemberChange::Remove(id), None, reply);
        }
    }

    /// Those who stay must be able to go on without the one who goes.
    fn check_removal(&self, id: u64) -> Result<(), Error> {
        if !self.roster.is_voter(id) {
            return Ok(());
        }
        let rest: Vec<_> =
            self.roster.configuration.voters.iter().copied().filter(|one| *one != id).collect();
        let progress = self.consensus.progress();
        let answers = |one: &u64| {
            *one == self.member_id || progress.iter().any(|p| p.id == *one && p.is_active)
        };
        let seen = rest.iter().filter(|one| answers(one)).count();
        if rest.is_empty() || seen < rest.len() / 2 + 1 {
            let detail = format!(
                "without member {id:x} there would be no majority: {seen} of {} voters answer",
                rest.len()
            );
            return Err(Error::Unavailable { detail });
        }
        Ok(())
    }

    pub(super) fn update(&mut self, member: Member, reply: AskReply) {
        let Some(known) = self.roster.members.get(&member.id) else {
            self.reply(reply, unknown(member.id));
            return;
        };
        let member = Member { is_learner: known.is_learner, ..member };
        if *known == member {
            self.reply(reply, Ok(Told::Done));
        } else {
            self.propose_system(&SystemCommand::Update(member), reply);
        }
    }

    pub(super) fn propose_system(&mut self, command: &SystemCommand, reply: AskReply) {
        debug_assert!(command.level() <= self.roster.level, "not all read {command:?}");
        let payload = encode_system(self.origin(self.next_number), command);
        if let Err(error) = self.consensus.propose(payload) {
            self.next_number += 1;
            self.refuse_ask(reply, &error);
        } else {
            self.wait_for(Held::Ask(reply));
        }
    }

    fn change(&mut self, change: MemberChange, added: Option<Member>, reply: AskReply) {
        let standing = self.consensus.standing();
        if !standing.is_settled || standing.is_changing || standing.is_transferring {
            self.reply(reply, Err(Error::NoLeader));
            return;
        }
        let context = encode_context(self.origin(self.next_number), added.as_ref());
        if let Err(error) = self.consensus.propose_change(change, context) {
            self.next_number += 1;
            self.refuse_ask(reply, &error);
        } else {
            self.wait_for(Held::Ask(reply));
        }
    }

    fn refuse_ask(&mut self, reply: AskReply, error: &ConsensusError) {
        let error = match error {
            ConsensusError::NoLeader => Error::NoLeader,
            ConsensusError::Overloaded => Error::Timeout { maybe_applied: false },
            other => Error::Unavailable { detail: other.to_string() },
        };
        self.reply(reply, Err(error));
    }

    /// `Err` is what to say at once.
    pub(super) fn begin_transfer(&mut self, to: Option<u64>) -> Result<(), AskResult> {
        let to = match to {
            Some(id) if id == self.member_id => return Err(Ok(Told::Done)),
            Some(id) if !self.roster.is_voter(id) => return Err(unknown(id)),
            Some(id) => id,
            None => self.successor().ok_or_else(|| {
                let detail = "no other voter could lead".to_owned();
                Err(Error::Unavailable { detail })
            })?,
        };
        if !self.consensus.standing().is_settled {
            return Err(Err(Error::NoLeader));
        }
        tracing::info!(to, "handing leadership over");
        self.consensus.transfer(to);
        Ok(())
    }

    /// Hands leadership over because this member stops; whether there is something to wait for.
    pub(crate) fn begin_leaving(&mut self) -> bool {
        if self.failed() || self.writes_here() || !self.consensus.standing().is_leader {
            return false;
        }
        let begun = self.begin_transfer(None).is_ok();
        self.run();
        begun
    }

    pub(crate) fn is_leaving(&self) -> bool {
        !self.failed() && self.standing.is_leader && self.standing.is_transferring
    }

    /// The voter that is furthest, answers and has a disk that is not slow.
    pub(super) fn successor(&self) -> Option<u64> {
        self.consensus
            .progress()
            .into_iter()
            .filter(|one| one.is_active && self.roster.is_voter(one.id))
            .filter(|one| !self.health.is_slow(one.id, self.clock.now()))
            .max_by_key(|one| (one.matched_index, one.id))
            .map(|one| one.id)
    }

    fn has_caught_up(&self, id: u64) -> bool {
        let committed = self.consensus.standing().committed;
        let heard = self.health.has_heard(id, self.clock.now());
        let progress = self.consensus.progress();
        progress.iter().any(|one| one.id == id && is_close(one, committed, heard))
    }

    /// What a leader does by itself, now and then.
    pub(super) fn tend_members(&mut self) {
        let standing = self.consensus.standing();
        if !standing.is_settled || standing.is_changing || standing.is_transferring {
            return;
        }
        let learners = self.roster.configuration.learners.clone();
        if let Some(id) = learners.into_iter().find(|id| self.has_caught_up(*id)) {
            self.change(MemberChange::Promote(id), None, AskReply::Nobody);
            return;
        }
        self.tend_level();
    }

    /// A member that goes by another name or address than the cluster knows says so: its id is
    /// what it is known by.
    pub(super) fn announce(&mut self, now: Duration) {
        let Some(known) = self.roster.members.get(&self.member_id) else { return };
        let record = Member { is_learner: known.is_learner, ..self.record.clone() };
        let recently = self.asks.announced_at.is_some_and(|at| at + ANNOUNCE_EVERY > now);
        if record.name.is_empty() || *known == record || recently || self.standing.leader == 0 {
            return;
        }
        self.asks.announced_at = Some(now);
        self.on_ask(Ask::Update(record), AskReply::Nobody);
    }

    pub(super) fn needs_announcement(&self) -> bool {
        self.roster.members.get(&self.member_id).is_some_and(|known| {
            let record = Member { is_learner: known.is_learner, ..self.record.clone() };
            !record.name.is_empty() && *known != record
        })
    }

    /// The transport is told whom there is to talk to.
    pub(super) fn tell_peers(&mut self) {
        let Roster { members, removed, .. } = &self.roster;
        self.introduced.retain(|id, _| !members.contains_key(id) && !removed.contains(id));
        let all = members.values().chain(self.introduced.values());
        let others: Vec<_> = all.filter(|member| member.id != self.member_id).cloned().collect();
        self.net.set_peers(&others);
        self.publish_membership();
    }

    /// Whoever is not heard of may lag so far behind that it does not know this member, and could
    /// not answer.
    pub(super) fn introduce(&mut self, now: Duration) {
        if self.asks.introduced_at.is_some_and(|at| at + INTRODUCE_EVERY > now) {
            return;
        }
        self.asks.introduced_at = Some(now);
        let members: Vec<_> = self.roster.members.values().cloned().collect();
        for id in members.iter().map(|member| member.id) {
            if id != self.member_id && !self.health.has_heard(id, now) {
                self.send(id, &Message::Members(members.clone()));
            }
        }
    }

    pub(super) fn on_introduced(&mut self, members: Vec<Member>) {
        let Roster { members: known, removed, .. } = &self.roster;
        let mut any = false;
        for member in members {
            if !known.contains_key(&member.id) && !removed.contains(&member.id) {
                any |= self.introduced.insert(member.id, member.clone()) != Some(member);
            }
        }
        if any {
            self.tell_peers();
        }
    }
}

/// Whether a vote of this learner would help and not hinder. Consensus takes a member that was just
/// added for active before it has said a word, and a short log makes one that has nothing look
/// close: so it must have been heard of, and have acknowledged its state.
fn is_close(learner: &Progress, committed: u64, heard: bool) -> bool {
    let has_state = learner.matched_index > 0;
    heard && learner.is_active && has_state && learner.matched_index + BEHIND_MAX >= committed
}

fn unknown(id: u64) -> AskResult {
    Err(Error::Unavailable { detail: format!("there is no member {id:x}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_is_promoted_when_it_has_its_state_and_answers() {
        let learner = |matched_index, is_active| Progress { id: 4, matched_index, is_active };
        assert!(is_close(&learner(90, true), 100, true));
        assert!(is_close(&learner(1_000, true), 1_256, true));
        assert!(!is_close(&learner(1_000, true), 1_257, true));
        // Added just now: its state is on the way, however short the log is.
        assert!(!is_close(&learner(0, true), 10, true));
        // It has died since, or has never been there.
        assert!(!is_close(&learner(90, true), 100, false));
        assert!(!is_close(&learner(90, false), 100, true));
    }
}
