//! Managers and what they own: `metadata.managedFields` in memory.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::compare::Comparison;
use super::fields::FieldSet;
use super::{Manager, Operation, owned};
use crate::access::Access as _;

/// Update managers that one object may have; older ones are merged into one, so that objects
/// written by ever new managers do not grow without bound.
const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager that older ones are merged into.
const ANCIENT: &str = "ancient-changes";

/// An applier is known without its version, which follows the last configuration.
type Key = (Operation, String, String, String);

#[derive(Debug, Clone, Default)]
pub(super) struct Managers(BTreeMap<Key, Entry>);

#[derive(Debug, Clone)]
struct Entry {
    manager: Manager,
    set: FieldSet,
    time: Option<String>,
}

fn key(manager: &Manager) -> Key {
    let version = match manager.operation {
        Operation::Apply => String::new(),
        Operation::Update => manager.api_version.clone(),
    };
    (manager.operation, manager.name.clone(), version, manager.subresource.clone())
}

impl Managers {
    /// Entries that cannot be read make the whole list count as absent, as upstream does.
    pub(super) fn decode(entries: &Value) -> Self {
        let mut managers = Self::default();
        for entry in entries.as_array().into_iter().flatten() {
            let operation = match entry.text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Self::default(),
            };
            let manager = Manager {
                name: entry.text("manager").to_owned(),
                operation,
                api_version: entry.text("apiVersion").to_owned(),
                subresource: entry.text("subresource").to_owned(),
            };
            let Some(set) =
                entry.get("fieldsV1").map_or(Some(FieldSet::default()), FieldSet::parse)
            else {
                return Self::default();
            };
            let time = entry.opt_text("time").map(str::to_owned);
            managers.0.insert(key(&manager), Entry { manager, set, time });
        }
        managers
    }

    pub(super) fn encode(&self) -> Value {
        let mut entries: Vec<&Entry> = self.0.values().collect();
        entries.sort_by(|a, b| {
            let order = |one: &Entry| {
                let manager = one.manager.clone();
                (
                    manager.operation,
                    one.time.clone(),
                    manager.name,
                    manager.api_version,
                    manager.subresource,
                )
            };
            order(a).cmp(&order(b))
        });
        entries.into_iter().map(Entry::encode).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn same_sets(&self, other: &Self) -> bool {
        let sets = |one: &Self| -> Vec<(Manager, FieldSet)> {
            one.0.values().map(|entry| (entry.manager.clone(), entry.set.clone())).collect()
        };
        sets(self) == sets(other)
    }

    pub(super) fn set(&self, manager: &Manager) -> Option<&FieldSet> {
        self.0.get(&key(manager)).map(|entry| &entry.set)
    }

    pub(super) fn time(&self, manager: &Manager) -> Option<&str> {
        self.0.get(&key(manager))?.time.as_deref()
    }

    pub(super) fn set_time(&mut self, manager: &Manager, time: Option<&str>) {
        if let Some(entry) = self.0.get_mut(&key(manager)) {
            entry.time = time.map(str::to_owned);
        }
    }

    /// All that anybody owns.
    pub(super) fn union(&self) -> FieldSet {
        self.0.values().fold(FieldSet::default(), |all, entry| all.union(&entry.set))
    }

    /// Gives the manager a new set and answers the last one.
    pub(super) fn replace(&mut self, manager: &Manager, set: FieldSet) -> Option<FieldSet> {
        let time = self.time(manager).map(str::to_owned);
        let entry = Entry { manager: manager.clone(), set, time };
        let last = if entry.set.is_empty() {
            self.0.remove(&key(manager))
        } else {
            self.0.insert(key(manager), entry)
        };
        last.map(|entry| entry.set)
    }

    /// Whom a change of these fields would take something from.
    pub(super) fn conflicts(
        &self,
        except: &Manager,
        changed: &FieldSet,
    ) -> Vec<(Manager, FieldSet)> {
        let others = self.0.iter().filter(|(one, _)| **one != key(except));
        others
            .map(|(_, entry)| (entry.manager.clone(), entry.set.intersection(changed)))
            .filter(|(_, set)| !set.is_empty())
            .collect()
    }

    /// Everybody else loses these fields; who owns nothing is no manager.
    pub(super) fn give_up(&mut self, except: &Manager, lost: &FieldSet) {
        let except = key(except);
        self.0.retain(|one, entry| {
            if *one != except {
                entry.set = entry.set.difference(lost);
            }
            !entry.set.is_empty()
        });
    }

    /// A write that is no apply: the manager owns what it changed, nobody what it removed.
    pub(super) fn write(&mut self, comparison: &Comparison, manager: &Manager, now: &str) {
        let changed = comparison.added.union(&comparison.modified);
        let lost = changed.union(&comparison.removed);
        self.0.retain(|_, entry| {
            entry.set = entry.set.difference(&lost);
            !entry.set.is_empty()
        });
        let set = owned(changed, &manager.subresource);
        if set.is_empty() {
            return;
        }
        let time = Some(now.to_owned());
        let entry = self.0.entry(key(manager)).or_insert_with(|| Entry {
            manager: manager.clone(),
            set: FieldSet::default(),
            time: None,
        });
        entry.set = entry.set.union(&set);
        entry.time = time;
    }

    /// Merges the oldest updates of each version into one entry when there are too many.
    pub(super) fn cap(&mut self) {
        let mut updates: Vec<Entry> = self
            .0
            .values()
            .filter(|entry| {
                let manager = &entry.manager;
                manager.operation == Operation::Update && manager.subresource.is_empty()
            })
            .cloned()
            .collect();
        if updates.len() <= UPDATE_MANAGERS_MAX {
            return;
        }
        updates.sort_by(|a, b| (&a.time, &a.manager.name).cmp(&(&b.time, &b.manager.name)));
        let excess = updates.len() - UPDATE_MANAGERS_MAX + 1;
        for old in updates.into_iter().take(excess) {
            self.0.remove(&key(&old.manager));
            let manager = Manager { name: ANCIENT.to_owned(), ..old.manager };
            let entry = self.0.entry(key(&manager)).or_insert_with(|| Entry {
                manager,
                set: FieldSet::default(),
                time: None,
            });
            entry.set = entry.set.union(&old.set);
            entry.time = entry.time.take().max(old.time);
        }
    }
}

impl Entry {
    fn encode(&self) -> Value {
        let mut entry = Map::new();
        entry.insert("manager".to_owned(), json!(self.manager.name));
        entry.insert("operation".to_owned(), json!(self.manager.operation.as_str()));
        entry.insert("apiVersion".to_owned(), json!(self.manager.api_version));
        if let Some(time) = &self.time {
            entry.insert("time".to_owned(), json!(time));
        }
        entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
        entry.insert("fieldsV1".to_owned(), self.set.to_json());
        if !self.manager.subresource.is_empty() {
            entry.insert("subresource".to_owned(), json!(self.manager.subresource));
        }
        Value::Object(entry)
    }
}
