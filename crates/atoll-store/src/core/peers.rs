//! What members say to each other: Raft's messages, and a few of our own beside them.
//!
//! The first byte says which; the version was settled when the connection was made.

use bytes::Bytes;

use super::ask::{decode_result, encode_result, member, put_member, read_all};
use super::{Ask, AskReply, AskResult, Core};
use crate::cluster::{Lane, Member, Refusal};
use crate::codec::{Malformed, Reader, put_u64};
use crate::consensus::{ConsensusError, PeerMessage};

const RAFT: u8 = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Raft(Bytes),
    Ask {
        number: u64,
        ask: Ask,
    },
    Told {
        number: u64,
        result: AskResult,
    },
    /// What is your chain at this index?
    ChainAsk {
        index: u64,
    },
    /// `None` when it is no longer, or not yet, known.
    ChainIs {
        index: u64,
        chain: Option<u32>,
    },
    /// A majority has another chain at this index; or there is no majority.
    Diverged {
        index: u64,
        has_majority: bool,
    },
    /// The sender's disk is slow.
    SlowDisk,
    /// Who there is, for one that may not know whom to answer.
    Members(Vec<Member>),
    /// So much of what is committed is on the disk of the sender, which leads.
    Durable {
        index: u64,
    },
}

impl Message {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Raft(content) => {
                out.reserve_exact(content.len() + 1);
                out.push(RAFT);
                out.extend_from_slice(content);
            }
            Self::Ask { number, ask } => {
                out.push(1);
                put_u64(&mut out, *number);
                ask.encode(&mut out);
            }
            Self::Told { number, result } => {
                out.push(2);
                put_u64(&mut out, *number);
                encode_result(&mut out, result);
            }
            Self::ChainAsk { index } => {
                out.push(3);
                put_u64(&mut out, *index);
            }
            Self::ChainIs { index, chain } => {
                out.push(4);
                put_u64(&mut out, *index);
                out.push(u8::from(chain.is_some()));
                put_u64(&mut out, u64::from(chain.unwrap_or(0)));
            }
            Self::Diverged { index, has_majority } => {
                out.push(5);
                put_u64(&mut out, *index);
                out.push(u8::from(*has_majority));
            }
            Self::SlowDisk => out.push(6),
            Self::Members(members) => {
                out.push(7);
                put_u64(&mut out, members.len() as u64);
                members.iter().for_each(|member| put_member(&mut out, member));
            }
            Self::Durable { index } => {
                out.push(8);
                put_u64(&mut out, *index);
            }
        }
        Bytes::from(out)
    }

    pub(crate) fn decode(content: Bytes) -> Result<Self, Malformed> {
        if content.first() == Some(&RAFT) {
            return Ok(Self::Raft(content.slice(1..)));
        }
        read_all(content, Self::read)
    }

    fn read(reader: &mut Reader) -> Result<Self, Malformed> {
        Ok(match reader.u8()? {
            1 => Self::Ask { number: reader.u64()?, ask: Ask::decode(reader)? },
            2 => Self::Told { number: reader.u64()?, result: decode_result(reader)? },
            3 => Self::ChainAsk { index: reader.u64()? },
            4 => {
                let (index, known) = (reader.u64()?, reader.bool()?);
                let chain = u32::try_from(reader.u64()?);
                let chain = chain.map_err(|_error| Malformed("a chain is too long"))?;
                Self::ChainIs { index, chain: known.then_some(chain) }
            }
            5 => Self::Diverged { index: reader.u64()?, has_majority: reader.bool()? },
            6 => Self::SlowDisk,
            7 => {
                let mut members = Vec::new();
                for _ in 0..reader.u64()? {
                    members.push(member(reader)?);
                }
                Self::Members(members)
            }
            8 => Self::Durable { index: reader.u64()? },
            _ => return Err(Malformed("an unknown message")),
        })
    }
}

impl Core {
    pub(super) fn send(&mut self, to: u64, message: &Message) {
        self.net.send(PeerMessage { to, lane: Lane::Urgent, content: message.encode() });
    }

    pub(super) fn send_raft(&mut self, message: PeerMessage) {
        let content = Message::Raft(message.content).encode();
        self.net.send(PeerMessage { content, ..message });
    }

    /// [`Self::run`] must follow, once for several messages.
    pub(crate) fn on_message(&mut self, from: u64, content: Bytes) {
        if self.failed() || self.roster.removed.contains(&from) {
            return;
        }
        self.health.hear(from, self.clock.now());
        match Message::decode(content) {
            Ok(Message::Raft(message)) => self.step(from, &message),
            Ok(Message::Ask { number, ask }) => {
                self.on_ask(ask, AskReply::Peer { member: from, number });
            }
            Ok(Message::Told { number, result }) => self.on_told(number, result),
            Ok(Message::ChainAsk { index }) => {
                let chain = self.chains.at(index);
                self.send(from, &Message::ChainIs { index, chain });
            }
            Ok(Message::ChainIs { index, chain }) => self.on_chain(from, index, chain),
            Ok(Message::Diverged { index, has_majority }) => self.on_diverged(index, has_majority),
            Ok(Message::Members(members)) => self.on_introduced(members),
            Ok(Message::Durable { index }) => self.on_durable(from, index),
            Ok(Message::SlowDisk) => self.health.hear_slow(from, self.clock.now()),
            Err(error) => tracing::warn!(from, %error, "a peer's message was not understood"),
        }
    }

    pub(super) fn step(&mut self, from: u64, message: &[u8]) {
        match self.consensus.step(from, message) {
            Ok(()) => {}
            Err(error @ ConsensusError::Inconsistent(_)) => {
                self.condemn(format!(
                    "{}; this server's folder has lost what it had acknowledged",
                    super::describe(&error)
                ));
            }
            Err(error) => tracing::warn!(from, %error, "a peer's message was refused"),
        }
    }

    pub(crate) fn on_unreachable(&mut self, peer: u64) {
        self.consensus.unreachable(peer);
    }

    pub(crate) fn on_snapshot_sent(&mut self, to: u64, arrived: bool) {
        self.consensus.snapshot_sent(to, arrived);
    }

    /// A peer does not talk to this server.
    pub(crate) fn on_refused(&mut self, peer: u64, refusal: &Refusal) {
        match refusal {
            Refusal::Removed { id } if *id == self.member_id => {
                self.fail_with(super::members::REMOVED.to_owned());
            }
            Refusal::OldCopy { id, .. } if *id == self.member_id => {
                self.condemn(refusal.to_string());
            }
            Refusal::Level { theirs, .. } if *theirs == self.config.level_max => {
                self.fail_with(format!("a server refuses this one: {refusal}"));
            }
            other => tracing::warn!(peer, refusal = %other, "a peer refuses this server"),
        }
    }
}
