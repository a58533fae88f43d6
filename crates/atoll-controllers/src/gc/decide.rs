//! What becomes of an object, given its owners.

use super::graph::Owner;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnerState {
    Solid,
    Absent,
    /// Being deleted in the foreground and waiting for this dependent to go.
    Waiting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Some owners are gone while others stay: forget those with these uids.
    Disown(Vec<String>),
    Delete {
        foreground: bool,
    },
}

pub(super) fn decide(owners: &[(Owner, OwnerState)], has_dependents: bool) -> Verdict {
    if owners.is_empty() {
        return Verdict::Keep;
    }
    let is_solid = |state: &OwnerState| *state == OwnerState::Solid;
    if owners.iter().any(|(_, state)| is_solid(state)) {
        let gone: Vec<String> = owners
            .iter()
            .filter(|(_, state)| !is_solid(state))
            .map(|(owner, _)| owner.uid.clone())
            .collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::Disown(gone) };
    }
    let waiting = owners.iter().any(|(_, state)| *state == OwnerState::Waiting);
    Verdict::Delete { foreground: waiting && has_dependents }
}

#[cfg(test)]
mod tests {
    use super::{OwnerState::*, *};

    fn owners(states: &[OwnerState]) -> Vec<(Owner, OwnerState)> {
        let owner = |index: usize| Owner { uid: index.to_string(), ..Owner::default() };
        states.iter().enumerate().map(|(index, state)| (owner(index), *state)).collect()
    }

    #[test]
    fn an_object_without_owners_stays() {
        assert_eq!(decide(&[], true), Verdict::Keep);
    }

    #[test]
    fn one_living_owner_keeps_it() {
        assert_eq!(decide(&owners(&[Solid, Absent]), false), Verdict::Disown(vec!["1".into()]));
        assert_eq!(decide(&owners(&[Solid]), false), Verdict::Keep);
    }

    #[test]
    fn without_a_living_owner_it_goes() {
        assert_eq!(decide(&owners(&[Absent]), true), Verdict::Delete { foreground: false });
        assert_eq!(decide(&owners(&[Waiting]), true), Verdict::Delete { foreground: true });
        assert_eq!(decide(&owners(&[Waiting]), false), Verdict::Delete { foreground: false });
    }
}
