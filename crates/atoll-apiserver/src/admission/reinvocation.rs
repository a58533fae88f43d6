//! Mutating policies and webhooks see what those after them changed: all of admission runs a
//! second time when one of them changed an object that an earlier one has seen.
//!
//! Only those with `reinvocationPolicy: IfNeeded` run again, and never more than twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;

/// One admission of one object.
#[derive(Debug, Default)]
pub(crate) struct Reinvocation(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    second: bool,
    again: bool,
    plugins: BTreeMap<&'static str, Plugin>,
}

/// What a plugin (the policies, the webhooks) has run.
#[derive(Debug, Default)]
struct Plugin {
    /// Those that want to see later changes, by an id of theirs.
    ran: Vec<String>,
    /// Those of them after which something changed.
    due: Vec<String>,
    /// The object when the plugin was done.
    output: Option<Value>,
}

impl Reinvocation {
    /// Whether the plugin has to look at its policies at all, given the object now.
    pub(crate) fn is_due(&self, plugin: &'static str, object: &Value) -> bool {
        let mut state = self.state();
        if !state.second {
            return true;
        }
        let own = state.plugins.entry(plugin).or_default();
        if own.output.as_ref().is_some_and(|output| output != object) {
            own.all_due();
        }
        !own.due.is_empty()
    }

    /// Whether the policy or webhook runs now: every one in the first round, in the second
    /// those that are due.
    pub(crate) fn runs(&self, plugin: &'static str, id: &str) -> bool {
        let state = self.state();
        !state.second
            || state.plugins.get(plugin).is_some_and(|own| own.due.iter().any(|due| due == id))
    }

    /// Notes that one has run, and whether it changed the object.
    pub(crate) fn ran(&self, plugin: &'static str, id: &str, if_needed: bool, changed: bool) {
        let mut state = self.state();
        if changed {
            state.plugins.values_mut().for_each(Plugin::all_due);
            state.again = true;
        }
        let own = state.plugins.entry(plugin).or_default();
        own.due.retain(|due| due != id);
        if if_needed && !state.second {
            state.plugins.entry(plugin).or_default().ran.push(id.to_owned());
        }
    }

    /// The plugin is through.
    pub(crate) fn done(&self, plugin: &'static str, object: &Value) {
        let mut state = self.state();
        let own = state.plugins.entry(plugin).or_default();
        if !own.ran.is_empty() {
            own.output = Some(object.clone());
        }
    }

    /// 0 for the first round, 1 for the second.
    pub(crate) fn number(&self) -> usize {
        usize::from(self.state().second)
    }

    /// Begins the second round if one is called for.
    pub(crate) fn begin_again(&self) -> bool {
        let mut state = self.state();
        let again = !state.second && state.again;
        state.second = true;
        again
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plugin {
    fn all_due(&mut self) {
        self.due.clone_from(&self.ran);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_earlier_one_sees_what_a_later_one_changed() {
        let (round, object) = (Reinvocation::default(), json!({}));
        assert!(round.is_due("p", &object) && round.runs("p", "a"));
        round.ran("p", "a", true, false);
        round.ran("p", "b", true, true);
        round.done("p", &object);
        assert!(round.begin_again());
        assert!(round.is_due("p", &object));
        assert!(round.runs("p", "a"));
        assert!(!round.runs("p", "b"), "nothing changed after it");
        round.ran("p", "a", true, true);
        assert!(!round.begin_again(), "there is no third round");
    }

    #[test]
    fn nothing_runs_again_without_a_change() {
        let (round, object) = (Reinvocation::default(), json!({}));
        round.ran("p", "a", true, false);
        round.done("p", &object);
        assert!(!round.begin_again());
    }

    #[test]
    fn never_is_never() {
        let (round, object) = (Reinvocation::default(), json!({}));
        round.ran("p", "a", false, false);
        round.ran("p", "b", false, true);
        round.done("p", &object);
        assert!(round.begin_again());
        assert!(!round.is_due("p", &object));
    }

    #[test]
    fn changes_of_other_plugins_count() {
        let (round, object) = (Reinvocation::default(), json!({}));
        round.ran("p", "a", true, false);
        round.done("p", &object);
        round.ran("q", "z", false, true);
        assert!(round.begin_again());
        assert!(round.is_due("p", &json!({"x": 1})));
        assert!(round.runs("p", "a") && !round.runs("q", "z"));
    }
}
