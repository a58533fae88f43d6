//! From proposals to entries that consensus has accepted: admission, room in the log, encoding.
//! And those who wait for what they proposed.

use std::time::Duration;

use super::{AskReply, Core, Proposal, Reply, describe};
use crate::consensus::ConsensusError;
use crate::kv::Error;
use crate::mvcc::{Origin, encode_batch_header, encode_command};
use crate::sync::read;
use crate::wal::{Room, Wal, WalError};

/// Commands share an entry until it has this size.
const ENTRY_BYTES: usize = 1 << 20;
/// Changes that may wait for the state file; beyond it writers wait, or learn that the disk is
/// full.
const BACKLOG_MAX_BYTES: usize = 64 << 20;

/// Encoded commands and where they came from, before they are proposed.
pub(super) struct Entry {
    payload: Vec<u8>,
    /// Where the commands begin.
    header_bytes: usize,
    proposals: Vec<Proposal>,
}

/// Somebody waits for the entry of this number.
pub(super) struct Waiting {
    number: u64,
    since: Duration,
    held: Held,
}

pub(super) enum Held {
    /// The commands, to be proposed again if they are passed over, and who asked for each.
    Batch {
        body: Vec<u8>,
        replies: Vec<Option<Reply>>,
    },
    Ask(AskReply),
    /// Only tells what became of those before it.
    Barrier,
}

impl Held {
    pub(super) fn into_replies(self) -> Vec<Option<Reply>> {
        match self {
            Self::Batch { replies, .. } => replies,
            Self::Ask(_) | Self::Barrier => Vec::new(),
        }
    }

    pub(super) fn into_ask(self) -> Option<AskReply> {
        match self {
            Self::Ask(reply) => Some(reply),
            Self::Batch { .. } | Self::Barrier => None,
        }
    }
}

impl Core {
    pub(super) fn propose_all(&mut self, proposals: Vec<Proposal>) {
        if self.writes_here() {
            let admitted = self.admit(proposals);
            for entry in self.reserve(admitted) {
                self.propose(entry);
            }
            return;
        }
        if let Some(error) = self.refusal() {
            for proposal in proposals {
                proposal.refuse(error.clone());
            }
            return;
        }
        let standing = self.consensus.standing();
        if standing.leader == 0 || standing.is_transferring {
            self.parked.extend(proposals);
            return;
        }
        for entry in self.encode(self.admit(proposals)) {
            self.propose(entry);
        }
    }

    /// Refuses what would exceed a quota. Only what is certain to be refused is: the sizes of one
    /// batch are not added up, so a keyspace may exceed its quota by a batch.
    pub(super) fn admit(&self, proposals: Vec<Proposal>) -> Vec<Proposal> {
        let used: Vec<_> =
            self.shared.keyspaces.iter().map(|one| read(&one.state).used_bytes()).collect();
        let backlog = self.backlog_bytes() > BACKLOG_MAX_BYTES;
        let mut admitted = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            let used = used.get(proposal.keyspace).copied().unwrap_or(0);
            let detail = if let Some(detail) = self.lacks_room(&proposal, used) {
                detail
            } else if proposal.is_ordinary() && self.journal.is_full() {
                "the log cannot grow: the disk is full".to_owned()
            } else if proposal.is_ordinary() && backlog {
                "the state file cannot grow: the disk is full".to_owned()
            } else {
                admitted.push(proposal);
                continue;
            };
            proposal.refuse(Error::NoSpace { detail });
        }
        admitted
    }

    fn backlog_bytes(&self) -> usize {
        self.shared.keyspaces.iter().map(|one| read(&one.state).pending_bytes()).sum()
    }

    /// Whether proposals should wait for the flush that is under way.
    pub(crate) fn must_wait_for_flush(&self) -> bool {
        self.flushing && !self.backend.waits_for_room() && self.backlog_bytes() > BACKLOG_MAX_BYTES
    }

    /// Takes room in the log before anything is proposed: what Raft has accepted can no longer
    /// be refused.
    pub(super) fn reserve(&mut self, mut proposals: Vec<Proposal>) -> Vec<Entry> {
        if proposals.iter().any(Proposal::is_ordinary) {
            let entries = self.encode(proposals);
            match self.reserve_bytes(log_bytes(&entries), Room::Ordinary) {
                Ok(()) => return entries,
                Err(error) => {
                    let (refused, rest) = entries
                        .into_iter()
                        .flat_map(|entry| entry.proposals)
                        .partition::<Vec<_>, _>(Proposal::is_ordinary);
                    self.refuse_all(refused, &error);
                    proposals = rest;
                }
            }
        }
        if proposals.is_empty() {
            return Vec::new();
        }
        let entries = self.encode(proposals);
        match self.reserve_bytes(log_bytes(&entries), Room::Vital) {
            Ok(()) => entries,
            Err(error) => {
                let refused = entries.into_iter().flat_map(|entry| entry.proposals).collect();
                self.refuse_all(refused, &error);
                Vec::new()
            }
        }
    }

    /// Where the log is away, its job takes the room.
    fn reserve_bytes(&mut self, bytes: u64, room: Room) -> Result<(), WalError> {
        self.journal.wal().map_or(Ok(()), |wal| wal.reserve(bytes, room))
    }

    fn encode(&self, proposals: Vec<Proposal>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for proposal in proposals {
            if entries.last().is_none_or(|entry| entry.payload.len() > ENTRY_BYTES) {
                let number = self.next_number + entries.len() as u64;
                let mut payload = Vec::new();
                encode_batch_header(&mut payload, self.origin(number));
                let header_bytes = payload.len();
                entries.push(Entry { payload, header_bytes, proposals: Vec::new() });
            }
            if let Some(entry) = entries.last_mut() {
                let code = u8::try_from(proposal.keyspace).unwrap_or(u8::MAX);
                encode_command(&mut entry.payload, code, &proposal.command);
                entry.proposals.push(proposal);
            }
        }
        entries
    }

    fn refuse_all(&mut self, proposals: Vec<Proposal>, error: &WalError) {
        let detail = describe(error);
        let reason = if matches!(error, WalError::Full { .. }) {
            Error::NoSpace { detail }
        } else {
            self.fail(error);
            Error::Unavailable { detail }
        };
        for proposal in proposals {
            proposal.refuse(reason.clone());
        }
    }

    fn propose(&mut self, entry: Entry) {
        // A sole voter's entries are never passed over.
        let body = if self.writes_here() {
            Vec::new()
        } else {
            entry.payload[entry.header_bytes..].to_vec()
        };
        match self.consensus.propose(entry.payload) {
            Ok(()) => {
                let replies = entry.proposals.into_iter().map(|proposal| proposal.reply).collect();
                self.wait_for(Held::Batch { body, replies });
            }
            Err(ConsensusError::NoLeader) if !self.writes_here() => {
                self.next_number += 1;
                self.parked.extend(entry.proposals);
            }
            Err(error) => {
                self.next_number += 1;
                let reason = match error {
                    ConsensusError::NoLeader => Error::NoLeader,
                    ConsensusError::Overloaded => Error::Timeout { maybe_applied: false },
                    other => Error::Unavailable { detail: other.to_string() },
                };
                for proposal in entry.proposals {
                    proposal.refuse(reason.clone());
                }
            }
        }
    }

    pub(super) fn origin(&self, number: u64) -> Origin {
        Origin { member_id: self.member_id, epoch: self.epoch, number }
    }

    /// What was proposed with the next number is waited for.
    pub(super) fn wait_for(&mut self, held: Held) {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.push_back(Waiting { number, since: self.clock.now(), held });
    }

    /// Those who wait for this entry, if it was proposed here since the start.
    pub(super) fn take_waiting(&mut self, origin: Origin) -> Held {
        if origin.member_id != self.member_id || origin.epoch != self.epoch {
            return Held::Barrier;
        }
        while let Some(waiting) = self.waiting.front() {
            if waiting.number > origin.number {
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else { break };
            if waiting.number == origin.number {
                return waiting.held;
            }
            // Every member leaves out an earlier number from now on.
            match waiting.held {
                Held::Batch { body, replies } => self.again.push((body, replies)),
                Held::Ask(reply) => self.reply(reply, Err(Error::NoLeader)),
                Held::Barrier => {}
            }
        }
        Held::Barrier
    }

    /// Proposes what is certain not to have happened once more; whether there was any.
    pub(super) fn propose_again(&mut self) -> bool {
        let standing = self.consensus.standing();
        if self.again.is_empty() || standing.leader == 0 || standing.is_transferring {
            return false;
        }
        let mut proposed = false;
        for (body, replies) in std::mem::take(&mut self.again) {
            if replies.iter().flatten().all(|reply| reply.sender.is_closed()) {
                continue;
            }
            let mut payload = Vec::with_capacity(body.len() + 24);
            encode_batch_header(&mut payload, self.origin(self.next_number));
            payload.extend_from_slice(&body);
            if self.consensus.propose(payload).is_ok() {
                self.wait_for(Held::Batch { body, replies });
                proposed = true;
            } else {
                self.next_number += 1;
                self.again.push((body, replies));
            }
        }
        proposed
    }

    /// Something that, when it is applied, tells what became of all that was proposed before.
    pub(super) fn propose_barrier(&mut self) {
        let mut payload = Vec::new();
        encode_batch_header(&mut payload, self.origin(self.next_number));
        if self.consensus.propose(payload).is_ok() {
            self.wait_for(Held::Barrier);
        }
    }

    /// Since when the oldest proposal waits.
    pub(super) fn waiting_since(&self) -> Option<Duration> {
        self.waiting.front().map(|waiting| waiting.since)
    }

    /// A state was installed that may hold some of what is waited for; which, it does not say.
    pub(super) fn give_up_installed(&mut self) {
        let Some((epoch, number)) = self.roster.origins.get(&self.member_id).copied() else {
            return;
        };
        if epoch != self.epoch {
            return;
        }
        while self.waiting.front().is_some_and(|waiting| waiting.number <= number) {
            let Some(waiting) = self.waiting.pop_front() else { return };
            self.give_up(waiting.held, &Error::Timeout { maybe_applied: true });
        }
    }

    pub(super) fn give_up_waiting(&mut self, error: &Error) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.give_up(waiting.held, error);
        }
    }

    fn give_up(&mut self, held: Held, error: &Error) {
        match held {
            Held::Batch { replies, .. } => {
                replies.into_iter().flatten().for_each(|reply| reply.send(Err(error.clone())));
            }
            Held::Ask(reply) => self.reply(reply, Err(error.clone())),
            Held::Barrier => {}
        }
    }

    /// Nobody can be asked: what has certainly not happened is refused, the rest is unknown.
    pub(super) fn refuse_waiting(&mut self, error: &Error) {
        for proposal in std::mem::take(&mut self.parked) {
            proposal.refuse(error.clone());
        }
        for (_, replies) in std::mem::take(&mut self.again) {
            replies.into_iter().flatten().for_each(|reply| reply.send(Err(error.clone())));
        }
        self.give_up_waiting(&Error::Timeout { maybe_applied: true });
    }
}

fn log_bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| Wal::frame_bytes(entry.payload.len())).sum()
}
