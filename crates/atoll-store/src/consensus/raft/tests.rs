//! Members on a network that loses nothing.

use std::collections::BTreeMap;

use super::*;

/// Three members on a network that loses nothing, with disks that are done at once.
struct Three {
    members: BTreeMap<u64, RaftConsensus>,
    reads: BTreeMap<u64, Vec<u64>>,
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
        Self { members: [1, 2, 3].map(made).into(), reads: BTreeMap::new() }
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
