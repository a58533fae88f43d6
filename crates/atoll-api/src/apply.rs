//! Server-side apply, and managedFields for every other write.
//!
//! Each manager owns a set of fields. An apply states all that its manager wants: fields it
//! stated before and states no longer go away unless somebody else owns them, and fields of
//! others with another value are conflicts. Other writes own what they change.

mod atomics;
mod compare;
mod extract;
mod fields;
mod kubectl;
mod managers;
mod merge;
mod shape;

use serde_json::{Map, Value};

use crate::access::Access as _;
use crate::schema::{self, Definition};
use compare::{Comparison, compare};
use managers::Managers;

pub use fields::FieldSet;

/// Owns everything that was there before the first apply, in objects without managedFields.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    /// `v1`, `apps/v1`
    pub api_version: String,
    /// `status`, or empty for the object itself.
    pub subresource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own the fields; `causes` are message and field of each.
    #[error("{message}")]
    Conflict { message: String, causes: Vec<(String, String)> },
    /// The configuration does not fit its type.
    #[error("{0}")]
    Typed(String),
}

/// Merges a configuration into the live object and answers the new one, managedFields
/// included. Applying the same configuration twice gives the same object.
///
/// `now` is the time in RFC 3339, in whole seconds.
///
/// # Errors
///
/// When other managers own fields that would change (and `force` is not set), or the
/// configuration does not fit its type.
pub fn apply<'a>(
    schema: impl Into<&'a Definition>,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
    now: &str,
) -> Result<Value, ApplyError> {
    let definition = schema.into();
    let config = checked(definition, config)?;
    let plain = live.map_or_else(empty, without_managed);
    let mut before = managed_of(live);
    if live.is_some() && before.is_empty() {
        before = everything_before(definition, &plain, manager, now);
    }
    let run = Run { definition, live: &plain, config: &config, manager };
    let (mut object, mut after, comparison) = match run.apply(before.clone(), force) {
        Err(conflicts) if kubectl::takes_over(&run, &conflicts) => run.apply(before.clone(), true),
        other => other,
    }
    .map_err(|conflicts| conflicts.into_error())?;
    let known = before.time(manager).is_some() && before.set(manager) == after.set(manager);
    if known && comparison.is_same() {
        after.set_time(manager, before.time(manager));
    } else {
        after.set_time(manager, Some(now));
    }
    kubectl::sync_last_applied(&run, &mut object);
    store_managed(&mut object, live, &after);
    Ok(object)
}

/// Whether a configuration fits its type.
///
/// # Errors
///
/// When it does not, with upstream's text.
pub fn check<'a>(schema: impl Into<&'a Definition>, config: &Value) -> Result<(), ApplyError> {
    checked(schema.into(), config).map(drop)
}

/// The places of a configuration that would replace a whole list, map or object: `.spec.args`.
#[must_use]
pub fn atomics<'a>(schema: impl Into<&'a Definition>, config: &Value) -> Vec<String> {
    atomics::find(schema.into(), config)
}

/// Lays a configuration over an object as an apply would, without owners: nothing is taken away
/// and nothing conflicts.
pub fn merge_into<'a>(schema: impl Into<&'a Definition>, object: &mut Value, config: &Value) {
    merge::merge(schema.into(), object, config);
}

/// Maintains managedFields for a write that is no apply: create, update, and the patches.
///
/// `new` may bring managedFields of its own, to change them directly; `[{}]` clears them.
pub fn update<'a>(
    schema: impl Into<&'a Definition>,
    live: Option<&Value>,
    new: &mut Value,
    manager: &Manager,
    now: &str,
) {
    let definition = schema.into();
    let supplied = take_managed(new);
    let plain = live.map_or_else(empty, without_managed);
    let reset = supplied.as_ref().is_some_and(is_reset);
    let mut managed = match &supplied {
        _ if reset => Managers::default(),
        Some(entries) if manager.subresource.is_empty() => {
            let managed = Managers::decode(entries);
            if managed.is_empty() { managed_of(live) } else { managed }
        }
        _ => managed_of(live),
    };
    // What nobody tracked from the start, nobody can attribute now.
    let untracked = live.is_some() && managed.is_empty();
    if !untracked {
        let comparison =
            compare(definition, &plain, new).without(fields::reset_by(&manager.subresource));
        managed.write(&comparison, manager, now);
        managed.cap();
    }
    store_managed(new, live, &managed);
}

/// The parts of one apply.
struct Run<'a> {
    definition: &'a Definition,
    live: &'a Value,
    config: &'a Value,
    manager: &'a Manager,
}

/// Who stands in the way, and where.
struct Conflicts(Vec<(Manager, FieldSet)>);

impl Run<'_> {
    fn apply(
        &self,
        mut managers: Managers,
        force: bool,
    ) -> Result<(Value, Managers, Comparison), Conflicts> {
        let mut object = self.live.clone();
        merge::merge(self.definition, &mut object, self.config);
        let set = extract::field_set(self.definition, self.config);
        let set = owned(set, &self.manager.subresource);
        let last = managers.replace(self.manager, set);
        if let Some(last) = last {
            let owned = managers.union();
            merge::prune(self.definition, &mut object, &last, &owned);
            // A list or map that is stated to be empty stays, though pruning emptied it.
            merge::merge(self.definition, &mut object, self.config);
        }
        let comparison = compare(self.definition, self.live, &object)
            .without(fields::reset_by(&self.manager.subresource));
        let changed = comparison.modified.union(&comparison.added);
        let conflicts = managers.conflicts(self.manager, &changed);
        if !force && !conflicts.is_empty() {
            return Err(Conflicts(conflicts));
        }
        managers.give_up(self.manager, &changed);
        managers.give_up(self.manager, &comparison.removed);
        Ok((object, managers, comparison))
    }
}

impl Conflicts {
    fn fields(&self) -> FieldSet {
        self.0.iter().fold(FieldSet::default(), |all, (_, set)| all.union(set))
    }

    fn into_error(self) -> ApplyError {
        let mut causes = Vec::new();
        let mut lines = Vec::new();
        let mut conflicts = self.0;
        conflicts.sort_by_key(|one| describe(&one.0));
        for (manager, set) in &conflicts {
            let manager = describe(manager);
            lines.push(format!("conflicts with {manager}:"));
            for path in set.paths() {
                lines.push(format!("- {path}"));
                causes.push((format!("conflict with {manager}"), path));
            }
        }
        let message = match causes.as_slice() {
            [(manager, path)] => format!("Apply failed with 1 conflict: {manager}: {path}"),
            _ => format!("Apply failed with {} conflicts: {}", causes.len(), lines.join("\n")),
        };
        ApplyError::Conflict { message, causes }
    }
}

/// `"kubectl-edit" using v1`
fn describe(manager: &Manager) -> String {
    let mut text = format!("{:?}", manager.name);
    if !manager.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", manager.subresource));
    }
    if manager.operation == Operation::Update {
        text.push_str(&format!(" using {}", manager.api_version));
    }
    text
}

/// The set without what identifies the object and what the other part of it decides.
fn owned(set: FieldSet, subresource: &str) -> FieldSet {
    set.difference(fields::identity()).recursive_difference(fields::reset_by(subresource))
}

/// The configuration in stored form, when it fits its type.
fn checked(definition: &Definition, config: &Value) -> Result<Value, ApplyError> {
    let mut config = without_managed(config);
    drop_nulls(&mut config);
    let problems = extract::problems(definition, &config);
    let fail = |text: &str| {
        let metadata = &config["metadata"];
        let (group, version) =
            config.text("apiVersion").split_once('/').unwrap_or(("", config.text("apiVersion")));
        Err(ApplyError::Typed(format!(
            "failed to create typed patch object ({}/{}; {group}/{version}, Kind={}): {text}",
            metadata.text("namespace"),
            metadata.text("name"),
            config.text("kind"),
        )))
    };
    match problems.as_slice() {
        [] => {}
        [one] => return fail(one),
        several => return fail(&format!("errors:\n  {}", several.join("\n  "))),
    }
    let mut stored = config.clone();
    match schema::prune_and_check(definition, &mut stored) {
        Ok(_) => Ok(stored),
        Err(error) => fail(&error.to_string()),
    }
}

fn everything_before(
    definition: &Definition,
    plain: &Value,
    manager: &Manager,
    now: &str,
) -> Managers {
    let earlier = Manager {
        name: BEFORE_FIRST_APPLY.to_owned(),
        operation: Operation::Update,
        api_version: manager.api_version.clone(),
        subresource: String::new(),
    };
    let mut managers = Managers::default();
    managers.write(&compare(definition, &empty(), plain), &earlier, now);
    managers
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn without_managed(object: &Value) -> Value {
    let mut object = object.clone();
    take_managed(&mut object);
    object
}

fn take_managed(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

fn managed_of(object: Option<&Value>) -> Managers {
    let entries = object.and_then(|object| object.get("metadata")?.get("managedFields"));
    entries.map(Managers::decode).unwrap_or_default()
}

/// `[{}]` (and `[]`, which only a patch can leave there) asks for no managedFields at all.
fn is_reset(entries: &Value) -> bool {
    let Some(entries) = entries.as_array() else { return false };
    let blank = |entry: &Value| entry.as_object().is_some_and(Map::is_empty);
    matches!(entries.as_slice(), [entry] if blank(entry))
}

/// Writes managedFields. Entries that differ from the live ones by their time only stay as
/// they are, so that a write that changes nothing is one that writes nothing.
fn store_managed(object: &mut Value, live: Option<&Value>, managers: &Managers) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(empty);
    let Some(metadata) = metadata.as_object_mut() else { return };
    metadata.remove("managedFields");
    if managers.is_empty() {
        return;
    }
    let old = live.and_then(|live| live.get("metadata")?.get("managedFields"));
    let same = old.is_some_and(|old| Managers::decode(old).same_sets(managers));
    let same_object = || {
        let Some(live) = live.and_then(Value::as_object) else { return false };
        live.len() == object_len(live, object)
    };
    let entries = match old {
        Some(old) if same && same_object() => old.clone(),
        _ => managers.encode(),
    };
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), entries);
    }
}

/// How many of the live object's fields are equal, managedFields aside.
fn object_len(live: &Map<String, Value>, object: &Map<String, Value>) -> usize {
    if live.len() != object.len() {
        return usize::MAX;
    }
    live.iter()
        .filter(|(key, value)| match object.get(*key) {
            Some(other) if *key == "metadata" => {
                let fields = |one: &Value| {
                    let mut fields = one.as_object().cloned().unwrap_or_default();
                    fields.remove("managedFields");
                    fields
                };
                fields(value) == fields(other)
            }
            other => other == Some(value),
        })
        .count()
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, one| !one.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
