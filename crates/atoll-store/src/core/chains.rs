//! Members that have applied the same have the same chain of checksums. The leader asks now and
//! then; the odd one out stops, and where there is no majority all do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::Core;
use super::peers::Message;
use crate::mvcc::ReadFault;
use crate::sync::write;

/// Chains of the last entries that can be asked for.
const KEPT_MAX: usize = 4096;
/// How often the leader asks, if anything was applied.
const ASK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Chains {
    /// Without a gap, the last one being of `last`.
    recent: VecDeque<u32>,
    last: u64,
    asked_at: Option<Duration>,
    /// Of each member, the epoch of its start as of then.
    asked_epochs: BTreeMap<u64, u64>,
    /// Somebody had not come so far, or no longer knew.
    incomplete: bool,
    /// The index asked for and what was answered.
    asked: Option<(u64, BTreeMap<u64, u32>)>,
}

impl Chains {
    fn push(&mut self, index: u64, chain: u32) {
        if index != self.last + 1 {
            self.recent.clear();
        }
        self.last = index;
        self.recent.push_back(chain);
        if self.recent.len() > KEPT_MAX {
            self.recent.pop_front();
        }
    }

    pub(super) fn at(&self, index: u64) -> Option<u32> {
        let back = usize::try_from(self.last.checked_sub(index)?).ok()?;
        let place = self.recent.len().checked_sub(back + 1)?;
        self.recent.get(place).copied()
    }
}

/// What the answers mean, of `voters` in all.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    Odd(Vec<u64>),
    NoMajority,
}

fn judge(answers: &BTreeMap<u64, u32>, voters: &[u64]) -> Verdict {
    let mut counts = BTreeMap::<u32, usize>::new();
    for (id, chain) in answers {
        *counts.entry(*chain).or_default() += usize::from(voters.contains(id));
    }
    let Some((most, count)) = counts.iter().max_by_key(|(_, count)| **count) else {
        return Verdict::Open;
    };
    if *count > voters.len() / 2 {
        let odd = answers.iter().filter(|(_, chain)| *chain != most).map(|(id, _)| *id);
        return Verdict::Odd(odd.collect());
    }
    let silent = voters.iter().filter(|voter| !answers.contains_key(voter)).count();
    if count + silent > voters.len() / 2 { Verdict::Open } else { Verdict::NoMajority }
}

impl Core {
    /// As if it had applied something else.
    #[cfg(test)]
    pub(crate) fn damage_chain(&mut self, by: u32) {
        self.chain ^= by;
    }

    /// The same, of the entry that has put this key.
    pub(crate) fn falsify(
        &mut self,
        code: usize,
        key: &[u8],
        value: &Bytes,
    ) -> Result<(), ReadFault> {
        write(&self.shared.keyspaces[code].state).falsify(key, value)?;
        self.chain = crc32c::crc32c_append(self.chain, value);
        self.dirty_since = Some(self.clock.now());
        Ok(())
    }

    pub(super) fn note_chain(&mut self) {
        self.chains.push(self.applied.index, self.chain);
    }

    pub(super) fn ask_chains(&mut self, now: Duration) {
        let due = self.chains.asked_at.is_none_or(|at| at + ASK_EVERY <= now);
        let index = self.applied.index;
        let asked = self.chains.asked.as_ref().map_or(0, |(index, _)| *index);
        // One that has just been started is asked at once.
        let epochs = self.epochs_of_others();
        let has_started = epochs != self.chains.asked_epochs;
        let is_new = index != asked || self.chains.incomplete;
        if !(has_started || due && is_new) || !self.standing.is_settled {
            return;
        }
        self.chains.asked_epochs = epochs;
        self.chains.incomplete = false;
        self.chains.asked_at = Some(now);
        self.chains.asked = Some((index, BTreeMap::from([(self.member_id, self.chain)])));
        for id in self.roster.members.keys().copied().collect::<Vec<_>>() {
            if id != self.member_id {
                self.send(id, &Message::ChainAsk { index });
            }
        }
    }

    fn epochs_of_others(&self) -> BTreeMap<u64, u64> {
        let ids = self.roster.members.keys().filter(|id| **id != self.member_id);
        let said = ids.filter_map(|id| Some((*id, self.shared.cluster.said(*id)?.epoch)));
        said.collect()
    }

    pub(super) fn on_chain(&mut self, from: u64, index: u64, chain: Option<u32>) {
        let Some((asked, answers)) = &mut self.chains.asked else { return };
        if *asked != index {
            return;
        }
        let Some(chain) = chain else {
            self.chains.incomplete = true;
            return;
        };
        answers.insert(from, chain);
        match judge(answers, &self.roster.configuration.voters) {
            Verdict::Open => {}
            Verdict::Odd(odd) => {
                for id in odd {
                    self.tell_diverged(id, index, true);
                }
            }
            Verdict::NoMajority => {
                for id in self.roster.members.keys().copied().collect::<Vec<_>>() {
                    self.tell_diverged(id, index, false);
                }
            }
        }
    }

    fn tell_diverged(&mut self, id: u64, index: u64, has_majority: bool) {
        if id == self.member_id {
            self.on_diverged(index, has_majority);
        } else {
            self.send(id, &Message::Diverged { index, has_majority });
        }
    }

    pub(super) fn on_diverged(&mut self, index: u64, has_majority: bool) {
        if has_majority {
            self.condemn(format!(
                "this server's state is another than that of the majority at entry {index}"
            ));
        } else {
            self.fail_with(format!(
                "the servers' states differ at entry {index} and none has a majority: all stop \
                 writing; restore the newest backup"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_out_of_a_majority_is_found_and_without_one_nobody_is() {
        let voters = [1, 2, 3];
        let judged = |answers: &[(u64, u32)]| judge(&answers.iter().copied().collect(), &voters);
        assert_eq!(judged(&[(1, 7)]), Verdict::Open);
        assert_eq!(judged(&[(1, 7), (2, 8)]), Verdict::Open);
        assert_eq!(judged(&[(1, 7), (2, 7)]), Verdict::Odd(vec![]));
        assert_eq!(judged(&[(1, 9), (2, 7), (3, 7)]), Verdict::Odd(vec![1]));
        assert_eq!(judged(&[(1, 9), (2, 7), (3, 8)]), Verdict::NoMajority);
        // A learner that differs is told; it does not decide.
        assert_eq!(judged(&[(1, 7), (2, 7), (4, 8)]), Verdict::Odd(vec![4]));
    }

    #[test]
    fn chains_are_known_for_the_last_entries_only() {
        let mut chains = Chains::default();
        (1..=5000).for_each(|index| chains.push(index, u32::try_from(index).unwrap()));
        assert_eq!(chains.at(5000), Some(5000));
        assert_eq!(chains.at(905), Some(905));
        assert_eq!((chains.at(904), chains.at(5001)), (None, None));
        chains.push(9000, 1);
        assert_eq!((chains.at(9000), chains.at(5000)), (Some(1), None));
    }
}
