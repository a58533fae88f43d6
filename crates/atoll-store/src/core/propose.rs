//! From proposals to entries that consensus has accepted: admission, room in the log, encoding.

use super::{Core, Proposal, Reply, Waiting, describe};
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
    proposals: Vec<Proposal>,
}

impl Core {
    /// Refuses what would exceed a quota. Only what is certain to be refused is: the sizes of one
    /// batch are not added up, so a keyspace may exceed its quota by a batch.
    pub(super) fn admit(&self, proposals: Vec<Proposal>) -> Vec<Proposal> {
        let live: Vec<_> =
            self.shared.keyspaces.iter().map(|one| read(&one.state).live_bytes).collect();
        let backlog = self.backlog_bytes() > BACKLOG_MAX_BYTES;
        let mut admitted = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            let live = live.get(proposal.keyspace).copied().unwrap_or(0);
            let quota = self.config.quota_bytes;
            let detail = if proposal.is_ordinary() && live + proposal.added_bytes > quota {
                format!("the keyspace has {live} of {quota} bytes; delete keys and compact")
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
            match self.wal.reserve(log_bytes(&entries), Room::Ordinary) {
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
        match self.wal.reserve(log_bytes(&entries), Room::Vital) {
            Ok(()) => entries,
            Err(error) => {
                let refused = entries.into_iter().flat_map(|entry| entry.proposals).collect();
                self.refuse_all(refused, &error);
                Vec::new()
            }
        }
    }

    fn encode(&self, proposals: Vec<Proposal>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        for proposal in proposals {
            if entries.last().is_none_or(|entry| entry.payload.len() > ENTRY_BYTES) {
                let number = self.next_number + entries.len() as u64;
                let origin = Origin { member_id: self.member_id, epoch: self.epoch, number };
                let mut payload = Vec::new();
                encode_batch_header(&mut payload, origin);
                entries.push(Entry { payload, proposals: Vec::new() });
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

    pub(super) fn propose(&mut self, entry: Entry) {
        let number = self.next_number;
        self.next_number += 1;
        let replies = entry.proposals.into_iter().map(|proposal| proposal.reply).collect();
        match self.consensus.propose(entry.payload) {
            Ok(()) => self.waiting.push_back(Waiting { number, replies }),
            Err(error) => {
                let replies: Vec<Option<Reply>> = replies;
                let reason = match error {
                    ConsensusError::NoLeader => Error::NoLeader,
                    ConsensusError::Overloaded => Error::Timeout { maybe_applied: false },
                    ConsensusError::Other(detail) => Error::Unavailable { detail },
                };
                for reply in replies.into_iter().flatten() {
                    reply.send(Err(reason.clone()));
                }
            }
        }
    }
}

fn log_bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| Wal::frame_bytes(entry.payload.len())).sum()
}
