//! A history that is as it should be, and what is found when something is planted in it.

use super::*;
use crate::model::{Batch, Range};

fn change(revision: i64, key: &str, value: Option<&str>) -> Change {
    Change { revision, key: key.to_owned(), value: value.map(str::to_owned) }
}

fn write(puts: &[(&str, &str)], guard: Option<(&str, i64)>, delete: Option<&str>) -> Ask {
    Ask::Write {
        guard: guard.map(|(key, at)| (key.to_owned(), at)),
        puts: puts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        delete: delete.map(str::to_owned),
    }
}

fn call(times: (u64, u64), ask: Ask, outcome: Outcome) -> Call {
    Call { asked_at: times.0, answered_at: times.1, ask, outcome }
}

fn written(revision: i64) -> Outcome {
    Outcome::Written { revision, succeeded: true, deleted: 0 }
}

fn read(key: Option<&str>) -> Ask {
    let range = key.map_or(Range::all(), |key| Range::Key(key.to_owned()));
    Ask::Read { range, how: How::Fresh }
}

fn found(revision: i64, found: &[(&str, &str, i64)]) -> Outcome {
    let found = found
        .iter()
        .map(|(key, value, changed_at)| Found {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
            changed_at: *changed_at,
        })
        .collect();
    Outcome::Found { revision, found }
}

struct Story {
    changes: Vec<Change>,
    calls: Vec<Call>,
    watches: Vec<Watched>,
    leases: Vec<Lease>,
    seen: BTreeMap<i64, u64>,
}

impl Story {
    fn window(&self) -> Window<'_> {
        Window {
            changes: &self.changes,
            calls: &self.calls,
            watches: &self.watches,
            leases: &self.leases,
            seen: &self.seen,
        }
    }
}

/// a=1; a and b at once; guarded write; its twin fails; delete of b; a write nobody heard of.
fn story() -> Story {
    let changes = vec![
        change(2, "a", Some("v1")),
        change(3, "a", Some("v2")),
        change(3, "b", Some("w2")),
        change(4, "a", Some("v3")),
        change(5, "b", None),
        change(6, "c", Some("v5")),
    ];
    let failed = Outcome::Written { revision: 4, succeeded: false, deleted: 0 };
    let deleted = Outcome::Written { revision: 5, succeeded: true, deleted: 1 };
    let calls = vec![
        call((1, 2), write(&[("a", "v1")], None, None), written(2)),
        call((3, 6), write(&[("a", "v2"), ("b", "w2")], None, None), written(3)),
        call((4, 7), read(None), found(2, &[("a", "v1", 2)])),
        call((8, 9), write(&[("a", "v3")], Some(("a", 3)), None), written(4)),
        call((10, 11), write(&[("a", "v4")], Some(("a", 3)), None), failed),
        call((12, 14), write(&[], None, Some("b")), deleted),
        call((13, u64::MAX), write(&[("c", "v5")], None, None), Outcome::Unknown),
        call((13, u64::MAX), write(&[("d", "v6")], None, None), Outcome::Unknown),
        call((15, 16), write(&[("d", "v7")], None, None), Outcome::Refused),
        call((17, 18), read(Some("a")), found(6, &[("a", "v3", 4)])),
    ];
    let batch =
        |revision, changes: &[Change]| Batch { revision, changes: changes.to_vec(), before: None };
    let batches = vec![
        batch(3, &changes[1..3]),
        batch(3, &[]),
        batch(5, &changes[3..5]),
        batch(6, &changes[5..]),
    ];
    let watches = vec![Watched { range: Range::all(), start: 3, batches }];
    Story { changes, calls, watches, leases: Vec::new(), seen: BTreeMap::new() }
}

fn check(story: &Story) -> Vec<String> {
    Checker::default().check(&story.window())
}

#[test]
fn a_history_that_is_as_it_should_be_has_no_violations() {
    assert_eq!(check(&story()), Vec::<String>::new());
}

/// Changes one thing in the story and looks for what the checker says.
fn planted(text: &str, plant: impl FnOnce(&mut Story)) {
    let mut story = story();
    plant(&mut story);
    let found = check(&story);
    assert!(found.iter().any(|problem| problem.contains(text)), "{text}: {found:?}");
}

#[test]
fn a_lost_write_is_found() {
    planted("acknowledged write that is not in the log", |story| {
        story.changes.retain(|change| change.revision != 4);
    });
    planted("leaves out revision 4", |story| story.changes.retain(|change| change.revision != 4));
}

#[test]
fn half_of_a_write_is_found() {
    planted("acknowledged write that is not in the log", |story| {
        story.changes.remove(2);
    });
    planted("half of a write happened", |story| {
        story.changes.remove(2);
        story.calls[1].outcome = Outcome::Unknown;
    });
}

#[test]
fn a_write_that_happened_twice_is_found() {
    planted("stood at 6 already", |story| story.changes.push(change(7, "c", Some("v5"))));
}

#[test]
fn a_refused_write_that_happened_is_found() {
    planted("its write was refused", |story| story.changes.push(change(7, "d", Some("v7"))));
    planted("nobody wrote it", |story| story.changes.push(change(7, "d", Some("ghost"))));
}

#[test]
fn a_stale_read_is_found_unless_it_may_be() {
    let stale = |story: &mut Story| story.calls[9].outcome = found(3, &[("a", "v2", 3)]);
    planted("was known before this was asked", stale);
    let mut allowed = story();
    stale(&mut allowed);
    allowed.calls[9].ask = Ask::Read { range: Range::Key("a".to_owned()), how: How::Stale };
    assert_eq!(check(&allowed), Vec::<String>::new());
}

#[test]
fn a_write_before_one_that_was_known_is_found() {
    planted("was known before this was asked", |story| story.calls[3].asked_at = 15);
}

#[test]
fn a_read_of_another_state_is_found() {
    planted("differs from the state", |story| {
        story.calls[9].outcome = found(6, &[("a", "v2", 3)]);
    });
    planted("not in the log", |story| story.calls[9].outcome = found(9, &[("a", "v3", 4)]));
}

#[test]
fn a_guard_judged_by_another_state_is_found() {
    planted("guard", |story| story.calls[3].ask = write(&[("a", "v3")], Some(("a", 2)), None));
    planted("guard", |story| {
        story.calls[4].ask = write(&[("a", "v4")], Some(("a", 4)), None);
    });
    planted("delete that met another state", |story| {
        story.calls[5].outcome = Outcome::Written { revision: 4, succeeded: true, deleted: 0 };
    });
    planted("nobody deleted", |story| {
        story.calls[5].outcome = Outcome::Written { revision: 5, succeeded: true, deleted: 0 };
    });
}

#[test]
fn a_watch_that_misses_repeats_or_runs_ahead_is_found() {
    planted("past 3 should see", |story| story.watches[0].batches[2].changes.truncate(1));
    planted("past 3 should see", |story| {
        let again = story.watches[0].batches[0].clone();
        story.watches[0].batches.insert(1, again);
    });
    // Told to be at 6 before the change of 6 was sent.
    planted("past 5 should see", |story| story.watches[0].batches[3].changes.clear());
    planted("goes back", |story| story.watches[0].batches[3].revision = 4);
    planted("past 3 should see", |story| story.watches[0].batches[2].changes.reverse());
}

#[test]
fn a_watch_of_some_keys_sees_those() {
    let mut story = story();
    let batch =
        |revision, changes: &[Change]| Batch { revision, changes: changes.to_vec(), before: None };
    let batches = vec![batch(3, &story.changes[2..3]), batch(5, &story.changes[4..5])];
    let range = Range::Key("b".to_owned());
    story.watches = vec![Watched { range, start: 2, batches }];
    assert_eq!(check(&story), Vec::<String>::new());
    story.watches[0].batches.remove(0);
    let found = check(&story);
    assert!(found.iter().any(|problem| problem.contains("past 1 should see")), "{found:?}");
}

#[test]
fn a_watch_that_is_told_of_another_past_is_found() {
    let tell = |story: &mut Story, value: &str| {
        let old = Found { key: "a".to_owned(), value: value.to_owned(), changed_at: 2 };
        story.watches[0].batches[0].before = Some(vec![Some(old), None]);
    };
    let mut right = story();
    tell(&mut right, "v1");
    assert_eq!(check(&right), Vec::<String>::new());
    planted("a watch should be told of", |story| tell(story, "v2"));
}

#[test]
fn a_write_that_happened_before_it_was_asked_for_is_found() {
    planted("before it was asked for", |story| story.calls[6].asked_at = 19);
}

#[test]
fn a_write_against_its_guard_is_found_though_nobody_was_told() {
    planted("its guard forbade", |story| {
        story.calls[6].ask = write(&[("c", "v5")], Some(("a", 3)), None);
    });
}

#[test]
fn an_old_revision_reads_as_it_was() {
    let at = |at, found: &[(&str, &str, i64)]| {
        let mut story = story();
        let ask = Ask::Read { range: Range::all(), how: How::At(at) };
        story.calls.push(call((20, 21), ask, self::found(6, found)));
        check(&story)
    };
    assert_eq!(at(3, &[("a", "v2", 3), ("b", "w2", 3)]), Vec::<String>::new());
    assert!(at(4, &[("a", "v2", 3), ("b", "w2", 3)])[0].contains("differs from the state"));
}

/// `k` on a lease that was kept alive until 30, gone at revision 7.
fn leased(seen_at: u64, revoked_at: Option<u64>) -> Vec<String> {
    let mut story = story();
    story.calls.push(call((20, 21), write(&[("k", "v8")], None, None), written(7)));
    story.changes.extend([change(7, "k", Some("v8")), change(8, "k", None)]);
    story.leases = vec![Lease { id: 1, keys: vec!["k".to_owned()], alive_until: 30, revoked_at }];
    story.seen = BTreeMap::from([(8, seen_at)]);
    check(&story)
}

#[test]
fn a_key_whose_lease_was_kept_alive_stays() {
    assert!(leased(29, None)[0].contains("while its lease was kept alive"));
    assert!(leased(22, Some(25))[0].contains("while its lease was kept alive"));
    assert_eq!(leased(29, Some(25)), Vec::<String>::new());
    assert_eq!(leased(31, None), Vec::<String>::new());
}

/// The story's second half, from revision 4 on.
fn second_half(story: &mut Story) -> Story {
    let none = || Story {
        changes: Vec::new(),
        calls: Vec::new(),
        watches: Vec::new(),
        leases: Vec::new(),
        seen: BTreeMap::new(),
    };
    let changes = story.changes.split_off(3);
    let calls = story.calls.split_off(3);
    let watched = story.watches[0].clone();
    let mut second = Story { changes, calls, ..none() };
    second.watches = vec![Watched { start: 4, batches: watched.batches[2..].to_vec(), ..watched }];
    story.watches[0].batches.truncate(2);
    second
}

#[test]
fn pieces_are_checked_one_after_the_other() {
    let (mut first, mut checker) = (story(), Checker::default());
    let second = second_half(&mut first);
    assert_eq!(checker.check(&first.window()), Vec::<String>::new());
    assert_eq!(checker.revision(), 3);
    assert_eq!(checker.check(&second.window()), Vec::<String>::new());
    assert_eq!(checker.revision(), 6);
    let state: Vec<_> = checker.state().map(|found| found.value.as_str()).collect();
    assert_eq!(state, ["v3", "v5"]);
}

#[test]
fn a_write_may_happen_in_a_later_piece_but_once() {
    let (mut first, mut checker) = (story(), Checker::default());
    let mut second = second_half(&mut first);
    let late = second.calls.remove(3);
    first.calls.push(Call { asked_at: 5, ..late });
    assert_eq!(checker.check(&first.window()), Vec::<String>::new());
    assert_eq!(checker.check(&second.window()), Vec::<String>::new());
    let again = Story {
        changes: vec![change(7, "c", Some("v5"))],
        ..Story { calls: Vec::new(), watches: Vec::new(), ..story() }
    };
    let found = checker.check(&again.window());
    assert!(found[0].contains("nobody wrote it"), "{found:?}");
}

#[test]
fn a_lost_write_of_an_earlier_piece_shows_in_the_next_read() {
    let (mut first, mut checker) = (story(), Checker::default());
    let mut second = second_half(&mut first);
    assert_eq!(checker.check(&first.window()), Vec::<String>::new());
    second.calls = vec![call((17, 18), read(Some("b")), found(3, &[]))];
    second.changes.clear();
    second.watches.clear();
    assert!(checker.check(&second.window())[0].contains("differs from the state"));
}
