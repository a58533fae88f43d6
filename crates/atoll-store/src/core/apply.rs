//! Committed entries take effect here, in their order, the same on every member.

use super::{Answer, AskReply, Core, Told};
use crate::consensus::raft::decode_change;
use crate::consensus::{EntryKind, LogEntry, MemberChange, Position};
use crate::core::system::{SystemCommand, decode_system, is_system};
use crate::kv::Error;
use crate::mvcc::{Command, LeaseChange, ReadFault, decode_batch};
use crate::sync::write;

type Outcome = Result<(), Box<dyn std::error::Error>>;

impl Core {
    pub(super) fn apply(&mut self, entry: LogEntry) -> Outcome {
        self.applied = Position { index: entry.index, term: entry.term };
        self.chain = crc32c::crc32c_append(self.chain, &entry.payload);
        self.note_chain();
        if entry.kind != EntryKind::Normal {
            return self.apply_change(&entry);
        }
        if entry.payload.is_empty() {
            return Ok(());
        }
        self.dirty_since.get_or_insert(self.clock.now());
        super::system::check_format(&entry.payload)?;
        if is_system(&entry.payload) {
            return self.apply_system(&entry);
        }
        let (origin, commands) = decode_batch(entry.payload)?;
        if !self.roster.accept(origin) {
            return Ok(());
        }
        let mut replies = self.take_waiting(origin).into_replies();
        for (position, (keyspace, command)) in commands.iter().enumerate() {
            let answer = self.apply_command(usize::from(*keyspace), command)?;
            if let Some(reply) = replies.get_mut(position).and_then(Option::take) {
                reply.send(answer);
            }
        }
        Ok(())
    }

    fn apply_command(&mut self, code: usize, command: &Command) -> Result<Answer, ReadFault> {
        let Some(keyspace) = self.shared.keyspaces.get(code) else {
            return Ok(Err(Error::Unavailable { detail: format!("no keyspace {code}") }));
        };
        let applied = write(&keyspace.state).apply(command, &|key| keyspace.hub.wants_prev(key))?;
        keyspace.hub.publish(applied.events);
        let now = self.clock.now();
        match applied.lease_change {
            Some(LeaseChange::Granted { id, ttl }) => {
                self.shared.with_leases(code, |leases| leases.start(id, ttl, 0, now));
            }
            Some(LeaseChange::Revoked { id }) => {
                self.shared.with_leases(code, |leases| leases.end(id));
            }
            Some(LeaseChange::Imported { revision }) => {
                keyspace.hub.jump(revision);
                self.restart_keyspace_leases(code, now);
            }
            None => {}
        }
        Ok(applied.response)
    }

    fn apply_system(&mut self, entry: &LogEntry) -> Outcome {
        let (origin, command) = decode_system(entry.payload.clone())?;
        if !self.roster.accept(origin) {
            return Ok(());
        }
        let reply = self.take_waiting(origin).into_ask();
        match command {
            SystemCommand::Update(member) => {
                if let Some(known) = self.roster.members.get_mut(&member.id) {
                    let is_learner = known.is_learner;
                    *known = crate::cluster::Member { is_learner, ..member };
                }
                self.tell_peers();
            }
            SystemCommand::RaiseLevel(level) => {
                self.check_level(level)?;
                self.roster.level = self.roster.level.max(level);
                tracing::info!(level = self.roster.level, "the format level has risen");
                self.publish_formats();
            }
            SystemCommand::Release { id, release } => {
                if self.roster.members.contains_key(&id) {
                    self.roster.releases.insert(id, release);
                }
                self.publish_formats();
            }
        }
        self.answer_ask(reply, Ok(Told::Done));
        Ok(())
    }

    /// A member more or less. The entry counts whoever proposed it: consensus has it in the log
    /// once.
    fn apply_change(&mut self, entry: &LogEntry) -> Outcome {
        let (change, context) = decode_change(&entry.payload)?;
        self.dirty_since.get_or_insert(self.clock.now());
        let (origin, member) = super::system::decode_context(context)?;
        self.roster.accept(origin);
        let reply = self.take_waiting(origin).into_ask();
        let configuration = self.consensus.apply_change(change)?;
        self.roster.change(change, configuration, member.clone());
        self.level_open = true;
        tracing::info!(?change, index = entry.index, "the members have changed");
        self.shared.cluster.set_removed(&self.roster.removed);
        self.tell_peers();
        let told = match (change, member) {
            (MemberChange::AddLearner(_), Some(member)) => Told::Member(member),
            _ => Told::Done,
        };
        self.answer_ask(reply, Ok(told));
        if change == MemberChange::Remove(self.member_id) {
            self.standing = self.consensus.standing();
            self.publish_membership();
            self.fail_with(super::members::REMOVED.to_owned());
        }
        Ok(())
    }

    pub(super) fn answer_ask(&mut self, reply: Option<AskReply>, result: super::AskResult) {
        if let Some(reply) = reply {
            self.reply(reply, result);
        }
    }
}
