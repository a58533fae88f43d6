//! Members on a network that loses nothing.

use std::collections::BTreeMap;

use super::*;

/// Three members on a network that loses nothing, with disks that are done at once.
struct Three {
    members: BTreeMap<u64, RaftConsensus>,
    reads: BTreeMap<u64, Vec<u64>>,
    /// Hears nothing any more.
    dead: Option<u64>,
}

impl Three {
    fn new() -> Self {
        let made = |id| {
            let start = Start {
                member_id: id,
                configuration: Configuration { voters: vec![1, 2, 3], learners: Vec::new() },
                applied: Position::default(),
                hard_state: HardState::default(),
                entries: Vec::new(),
                seed: 7,
                kept_max: (1_000, 1 << 20),
            };
            (id, RaftConsensus::new(start).unwrap())
        };
        Self { members: [1, 2, 3].map(made).into(), reads: BTreeMap::new(), dead: None }
    }

    fn leader(&mut self) -> u64 {
        for _ in 0..100 {
            for member in self.members.values_mut() {
                member.tick();
            }
            self.settle();
            let settled =
                |(id, one): (&u64, &RaftConsensus)| one.standing().is_settled.then_some(*id);
            if let Some(leader) = self.members.iter().find_map(settled) {
                return leader;
            }
        }
        panic!("nobody leads");
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut sent = Vec::new();
            for (id, member) in &mut self.members {
                while let Some(work) = member.poll() {
                    self.reads.entry(*id).or_default().extend(work.reads.iter().map(|one| one.0));
                    member.persisted(work.number);
                    for entry in &work.committed {
                        member.applied(entry.index);
                    }
                    let all = work.messages.into_iter().chain(work.messages_after_persist);
                    sent.extend(all.map(|message| (*id, message)));
                }
            }
            if sent.is_empty() {
                return;
            }
            sent.retain(|(_, message)| self.dead != Some(message.to));
            for (from, message) in sent {
                self.members.get_mut(&message.to).unwrap().step(from, &message.content).unwrap();
            }
        }
    }
}

#[test]
fn reads_of_equal_numbers_are_all_answered() {
    let mut three = Three::new();
    three.leader();
    for member in three.members.values_mut() {
        member.read_index(42);
    }
    three.settle();
    let expected = [1, 2, 3].map(|id| (id, vec![42]));
    assert_eq!(three.reads, BTreeMap::from(expected));
}

/// What a member has to say now: kinds of messages, to whom, and what is in them.
fn says(member: &mut RaftConsensus) -> Vec<(MessageType, u64, Message)> {
    let mut said = Vec::new();
    while let Some(work) = member.poll() {
        member.persisted(work.number);
        let all = work.messages.into_iter().chain(work.messages_after_persist);
        said.extend(all.map(|message| {
            let content = Message::decode(&message.content[..]).unwrap();
            (content.get_msg_type(), message.to, content)
        }));
    }
    said
}

/// A member asks, in its own term and this many later; what the leader says to that, and to whom.
fn asked(later: i64) -> (u64, Vec<(MessageType, u64)>) {
    let mut three = Three::new();
    let leader = three.leader();
    let asker = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let member = three.members.get_mut(&asker).unwrap();
    member.read_index(42);
    let (kind, to, mut question) = says(member).remove(0);
    assert_eq!((kind, to), (MessageType::MsgReadIndex, leader));
    question.log_term = question.log_term.checked_add_signed(later).unwrap();
    let first = three.members.get_mut(&leader).unwrap();
    first.step(asker, &question.encode_to_vec()).unwrap();
    let said = says(first).into_iter().map(|(kind, to, _)| (kind, to)).collect();
    (asker, said)
}

#[test]
fn who_asks_in_the_leaders_term_is_answered_at_once() {
    let (asker, said) = asked(0);
    assert_eq!(said, [(MessageType::MsgReadIndexResp, asker)]);
}

/// Members of older releases name none, which is an earlier one too.
#[test]
fn who_asks_in_another_term_proves_nothing() {
    for later in [-1, 1] {
        let (_, said) = asked(later);
        let kinds: Vec<_> = said.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [MessageType::MsgHeartbeat; 2], "{later}");
    }
}

#[test]
fn who_answers_is_known_at_every_moment_and_who_died_soon() {
    let mut three = Three::new();
    let leader = three.leader();
    let active = |three: &Three| {
        let progress = three.members[&leader].progress();
        progress.iter().filter(|one| one.is_active).map(|one| one.id).collect::<Vec<_>>()
    };
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    for tick in 0..5 * ELECTION_TICKS {
        three.members.get_mut(&leader).unwrap().tick();
        // Before anybody can have answered.
        assert_eq!(active(&three), others, "tick {tick}");
        three.settle();
    }
    three.dead = Some(others[0]);
    for _ in 0..2 * ELECTION_TICKS + LATELY_TICKS {
        three.members.get_mut(&leader).unwrap().tick();
        three.settle();
    }
    assert_eq!(active(&three), [others[1]]);
    assert!(three.members[&leader].standing().is_leader);
}

#[test]
fn whoever_gives_its_leader_up_in_error_gets_no_votes_and_comes_back() {
    let mut three = Three::new();
    let leader = three.leader();
    let before = three.members[&leader].standing();
    let wrong = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    three.members.get_mut(&wrong).unwrap().leader_ended(leader);
    for _ in 0..4 {
        three.members.get_mut(&wrong).unwrap().tick();
        three.settle();
    }
    assert_eq!(three.members[&wrong].standing().leader, 0);
    assert_eq!(three.members[&leader].standing(), before);
    three.members.get_mut(&leader).unwrap().tick();
    three.settle();
    for member in three.members.values() {
        let standing = member.standing();
        assert_eq!((standing.leader, standing.term), (leader, before.term));
    }
}

#[test]
fn those_who_know_that_their_leader_has_ended_elect_another_soon() {
    let mut three = Three::new();
    let leader = three.leader();
    three.dead = Some(leader);
    let others = [1, 2, 3].into_iter().filter(|id| *id != leader).collect::<Vec<_>>();
    for id in &others {
        // Another than the leader is nothing to it.
        three.members.get_mut(id).unwrap().leader_ended(7);
        three.members.get_mut(id).unwrap().leader_ended(leader);
    }
    for _ in 0..4 {
        for id in &others {
            three.members.get_mut(id).unwrap().tick();
            three.settle();
        }
    }
    assert!(others.iter().any(|id| three.members[id].standing().is_settled));
}

#[test]
fn whoever_asked_before_the_other_had_noticed_asks_again_soon() {
    let mut three = Three::new();
    let leader = three.leader();
    three.dead = Some(leader);
    let others: Vec<_> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let ask = |three: &mut Three, ticks| {
        for _ in 0..ticks {
            three.members.get_mut(&others[0]).unwrap().tick();
            three.settle();
        }
        three.members[&others[0]].standing()
    };
    three.members.get_mut(&others[0]).unwrap().leader_ended(leader);
    assert_eq!(ask(&mut three, 2).leader, 0);
    three.members.get_mut(&others[1]).unwrap().leader_ended(leader);
    assert!(ask(&mut three, AGAIN_TICKS).is_settled);
}

/// Members forget with a removal what the one that goes has proposed: it would happen twice.
#[test]
fn what_comes_twice_of_a_member_and_the_second_time_behind_its_removal_is_dropped() {
    let mut three = Three::new();
    let leader = three.leader();
    let goes = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let member = three.members.get_mut(&goes).unwrap();
    member.propose(b"once".to_vec()).unwrap();
    let work = std::iter::from_fn(|| member.poll());
    let sent = work.flat_map(|work| [work.messages, work.messages_after_persist].concat());
    let proposal = sent.last().unwrap().content;
    let leader = three.members.get_mut(&leader).unwrap();
    let before = leader.standing().last_index;
    leader.step(goes, &proposal).unwrap();
    leader.propose_change(MemberChange::Remove(goes), Vec::new()).unwrap();
    leader.step(goes, &proposal).unwrap();
    assert_eq!(leader.standing().last_index, before + 2);
    while leader.poll().is_some() {}
    leader.step(goes, &proposal).unwrap();
    assert_eq!(leader.standing().last_index, before + 2);
}
