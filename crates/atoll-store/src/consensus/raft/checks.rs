//! Looks at a message of another member before the raft crate does, which panics where a log does
//! not fit to what it is told. A member whose disk has lost what it acknowledged is found here.

use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, Storage};

use super::super::ConsensusError;

/// A term that far ahead was never reached by elections.
const TERM_JUMP_MAX: u64 = 1 << 32;

pub(super) fn check<T: Storage>(
    node: &RawNode<T>,
    from: u64,
    message: &Message,
) -> Result<(), ConsensusError> {
    let malformed = |what: &str| Err(ConsensusError::Other(format!("member {from:x} {what}")));
    let raft = &node.raft;
    if message.from != from || message.to != raft.id {
        return malformed("sent a message in another's name");
    }
    if message.term > raft.term.saturating_add(TERM_JUMP_MAX) {
        return malformed("names an impossible term");
    }
    let last = raft.raft_log.last_index();
    match message.get_msg_type() {
        MessageType::MsgAppend => check_append(node, message),
        MessageType::MsgHeartbeat if message.term >= raft.term && message.commit > last => {
            Err(ConsensusError::Inconsistent(format!(
                "the leader knows that this server had entry {}, and its log ends at {last}",
                message.commit
            )))
        }
        MessageType::MsgAppendResponse
            if !message.reject && message.term == raft.term && message.index > last =>
        {
            malformed("acknowledges an entry that was not sent")
        }
        MessageType::MsgPropose => {
            let normal = |entry: &Entry| entry.get_entry_type() == EntryType::EntryNormal;
            if message.entries.is_empty() || !message.entries.iter().all(normal) {
                return malformed("forwards what is no proposal");
            }
            Ok(())
        }
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if message.entries.len() != 1 => {
            malformed("asks to read without saying for what")
        }
        _ => Ok(()),
    }
}

fn check_append<T: Storage>(node: &RawNode<T>, message: &Message) -> Result<(), ConsensusError> {
    let raft = &node.raft;
    if message.term < raft.term {
        return Ok(());
    }
    let committed = raft.raft_log.committed;
    for (entry, index) in message.entries.iter().zip(message.index + 1..) {
        if entry.index != index {
            return Err(ConsensusError::Other("entries are not in a row".to_owned()));
        }
        let known = raft.raft_log.term(entry.index).unwrap_or(0);
        if entry.index <= committed && known != 0 && known != entry.term {
            return Err(ConsensusError::Inconsistent(format!(
                "entry {} is committed here with term {known} and at the leader with term {}",
                entry.index, entry.term
            )));
        }
    }
    Ok(())
}
