//! One round of heartbeats confirms the leader to everybody who asked before it began, whoever
//! they are. The crate alone would send heartbeats to all members for each who asks.
//!
//! Who asks confirms the leader by that: the question names the term, and nobody can have been
//! elected in a later one without the asker's vote or the leader's, where these two are a
//! majority. With three voters a follower's read is one message there and one back.

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{RawNode, StateRole, Storage};

/// The round that is under way, if the leader still waits for it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    asked: Vec<u8>,
}

impl Reading {
    /// A member, maybe this one, asks for what is committed. Outside of the leader it is passed on.
    pub(super) fn ask<T: Storage>(
        &mut self,
        node: &mut RawNode<T>,
        message: Message,
    ) -> raft::Result<()> {
        let raft = &mut node.raft;
        if raft.state == StateRole::Leader && raft.commit_to_current_term() {
            if is_confirmed_by(node, &message) {
                answer(node, message);
                return Ok(());
            }
            if self.is_under_way(node) {
                // Heartbeats for it go out when this round has ended.
                let raft = &mut node.raft;
                let (committed, id) = (raft.raft_log.committed, raft.id);
                raft.read_only.add_request(committed, message, id);
                return Ok(());
            }
            self.asked = message.entries.first().map_or_else(Vec::new, |one| one.data.to_vec());
        }
        node.raft.step(message)
    }

    /// The next round, if somebody waits for it and none is under way; whether it began.
    pub(super) fn begin_next<T: Storage>(&mut self, node: &mut RawNode<T>) -> bool {
        if node.raft.state != StateRole::Leader || self.is_under_way(node) {
            return false;
        }
        let Some(last) = node.raft.read_only.last_pending_request_ctx() else { return false };
        self.asked = last;
        // With the context of the last who asked, which answers all before it too.
        node.ping();
        true
    }

    fn is_under_way<T: Storage>(&self, node: &RawNode<T>) -> bool {
        node.raft.read_only.pending_read_index.contains_key(&self.asked)
    }
}

/// Whether the asker followed this leader when it asked, after whoever waits for the answer had
/// come, and is with it a majority. It has not voted in a later term then, as members forget no
/// vote, and the leader has not yet: whoever was to be elected before needed one of them.
fn is_confirmed_by<T: Storage>(node: &RawNode<T>, message: &Message) -> bool {
    let raft = &node.raft;
    let mut both = std::iter::empty().collect();
    Extend::extend(&mut both, [raft.id, message.from]);
    message.log_term == raft.term && raft.prs().has_quorum(&both)
}

/// What is committed here, which is all that was acknowledged before the question.
fn answer<T: Storage>(node: &mut RawNode<T>, question: Message) {
    let raft = &mut node.raft;
    let mut answer = Message {
        from: raft.id,
        to: question.from,
        term: raft.term,
        index: raft.raft_log.committed,
        entries: question.entries,
        ..Message::default()
    };
    answer.set_msg_type(MessageType::MsgReadIndexResp);
    raft.msgs.push(answer);
}

/// This member's own question, to be told from others by its context. The crate sends no term
/// with it; the one in which its leader is followed stands where nothing else does.
pub(super) fn question(context: Vec<u8>, term: u64) -> Message {
    let entry = Entry { data: context, ..Entry::default() };
    let mut message = Message { entries: vec![entry], log_term: term, ..Message::default() };
    message.set_msg_type(MessageType::MsgReadIndex);
    message
}
