//! The chains that pick an endpoint, and what they remember of clients: which of them the
//! services need, and what stands in them.
//!
//! A chain only knows a number of endpoints, so services that have as many share it. Those
//! with session affinity have chains of their own, with a map of clients; another chain
//! fills it once the connection is translated, with what is in the set of endpoints.

use std::collections::{BTreeMap, BTreeSet};

use super::{MASQUERADE_MARK, TARGET, front_key};
use crate::nft::{Batch, Holds, Part, Reg, Rule, SetSpec};
use crate::service::{Affinity, Chain, Difference, ElementKey, Front, ListId, Set, Value};

/// Clients remembered for one port of a service on one node. Beyond it new clients are
/// spread without being remembered.
const AFFINITY_CLIENTS_MAX: u32 = 65_536;

/// How many elements lead to each chain, and how many endpoints each list has.
#[derive(Debug, Default)]
pub(super) struct Picks {
    chains: BTreeMap<Chain, usize>,
    keeps: BTreeMap<Affinity, usize>,
    lists: BTreeMap<ListId, usize>,
}

/// What a difference needs first, and what it leaves behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    new_chains: Vec<Chain>,
    idle_chains: Vec<Chain>,
    new_keeps: Vec<Affinity>,
    idle_keeps: Vec<Affinity>,
    pub(super) new_lists: Vec<ListId>,
    pub(super) idle_lists: Vec<ListId>,
}

impl Picks {
    /// Counts the difference in.
    pub(super) fn turn(&mut self, difference: &Difference) -> Turn {
        let Difference { delete: gone, add: come } = difference;
        let list = |(key, _): &(ElementKey, Value)| match key.set {
            Set::Valid(list) => Some(list),
            _ => None,
        };
        let chain = |(_, value): &(ElementKey, Value)| value.chain();
        let keep = |(_, value): &(ElementKey, Value)| value.kept();
        let (new_chains, idle_chains) = count(&mut self.chains, gone, come, chain);
        let (new_keeps, idle_keeps) = count(&mut self.keeps, gone, come, keep);
        let (new_lists, idle_lists) = count(&mut self.lists, gone, come, list);
        Turn { new_chains, idle_chains, new_keeps, idle_keeps, new_lists, idle_lists }
    }

    /// Whether it is in use; `None` for a chain that is none of these.
    pub(super) fn owns_chain(&self, name: &str) -> Option<bool> {
        if name.starts_with(Chain::PREFIX) {
            Some(self.chains.keys().any(|chain| chain.name() == name))
        } else if name.starts_with(Affinity::PREFIX) {
            Some(self.keeps.keys().any(|keep| keep.name() == name))
        } else {
            None
        }
    }

    /// Whether it is in use; `None` for a set that is none of these.
    pub(super) fn owns_set(&self, name: &str) -> Option<bool> {
        let ours = ListId::PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        let used = |list: &ListId| list.affinity() == name || list.valid() == name;
        ours.then(|| self.lists.keys().any(used))
    }
}

/// Those that are counted for the first time, and those that are not counted any more.
fn count<T: Ord + Copy, E>(
    counts: &mut BTreeMap<T, usize>,
    gone: &[E],
    come: &[E],
    of: impl Fn(&E) -> Option<T>,
) -> (Vec<T>, Vec<T>) {
    let mut new = BTreeSet::new();
    for one in come.iter().filter_map(&of) {
        let count = counts.entry(one).or_default();
        if *count == 0 {
            new.insert(one);
        }
        *count += 1;
    }
    let mut idle = Vec::new();
    for one in gone.iter().filter_map(&of) {
        if let Some(count) = counts.get_mut(&one) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&one);
                idle.push(one);
            }
        }
    }
    (new.into_iter().collect(), idle)
}

/// What is needed first.
pub(super) fn add(batch: &mut Batch, turn: &Turn) {
    for list in &turn.new_lists {
        add_sets(batch, *list);
    }
    for chain in &turn.new_chains {
        write_chain(batch, chain);
    }
    for keep in &turn.new_keeps {
        write_keep(batch, keep);
    }
}

/// What nothing leads to any more.
pub(super) fn remove(batch: &mut Batch, turn: &Turn) {
    let chains = turn.idle_chains.iter().map(Chain::name);
    for chain in chains.chain(turn.idle_keeps.iter().map(Affinity::name)) {
        batch.flush_chain(&chain);
        batch.delete_chain(&chain);
    }
    for list in &turn.idle_lists {
        batch.delete_set(&list.valid());
        batch.delete_set(&list.affinity());
    }
}

/// The map of clients and the set of endpoints. They keep what they have.
fn add_sets(batch: &mut Batch, list: ListId) {
    batch.add_set(&SetSpec {
        name: &list.affinity(),
        key: &[Part::Address],
        holds: Holds::Parts(TARGET),
        dynamic: Some(AFFINITY_CLIENTS_MAX),
    });
    batch.add_set(&SetSpec {
        name: &list.valid(),
        key: TARGET,
        holds: Holds::Nothing,
        dynamic: None,
    });
}

/// The chain that sends a connection to one of so many endpoints.
fn write_chain(batch: &mut Batch, chain: &Chain) {
    let name = chain.name();
    batch.add_chain(&name, None);
    batch.flush_chain(&name);
    if chain.masquerade {
        batch.add_rule(&name, |rule| {
            rule.set_mark(MASQUERADE_MARK, true);
        });
    }
    if let Some(Affinity { list, .. }) = chain.affinity {
        batch.add_rule(&name, |rule| {
            rule.source_address(Reg(0)).lookup(&list.affinity(), Reg(0), Reg(8));
            rule.translate_to(Reg(8), Reg(9));
        });
    }
    batch.add_rule(&name, |rule| {
        pick(rule, chain).translate_to(Reg(8), Reg(9));
    });
}

/// The chain that keeps a client at the endpoint that it was led to, for some time from now.
fn write_keep(batch: &mut Batch, keep: &Affinity) {
    let name = keep.name();
    batch.add_chain(&name, None);
    batch.flush_chain(&name);
    let kept_ms = u64::from(keep.seconds) * 1000;
    batch.add_rule(&name, |rule| {
        rule.destination_address(Reg(0)).destination_port(Reg(1));
        rule.in_set(&keep.list.valid(), Reg(0)).source_address(Reg(2));
        rule.remember(&keep.list.affinity(), Reg(2), Reg(0), kept_ms);
    });
}

/// Puts a random endpoint into registers 8 and 9.
fn pick<'r, 'm>(rule: &'r mut Rule<'m>, chain: &Chain) -> &'r mut Rule<'m> {
    let number = match chain.front {
        Front::Address => Reg(3),
        Front::NodePort => Reg(2),
    };
    front_key(rule, chain.front).random(chain.endpoints, number).lookup(
        &Set::Endpoints(chain.front, chain.reach).name(),
        Reg(0),
        Reg(8),
    )
}
