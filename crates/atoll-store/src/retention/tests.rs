//! A keeper driven by hand: which history goes when.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn keeper(retention: Retention) -> Keeper {
    let limits = KeyspaceLimits { quota_bytes: 1000, retention, few_revisions: 0 };
    Keeper::new(&limits, Duration::ZERO, 1)
}

/// Looks whenever it is due until `end`, while one revision comes a second; what was compacted to,
/// and when.
fn run(keeper: &mut Keeper, end: Duration, pressure: Pressure) -> Vec<(u64, Revision)> {
    let mut compacted = 0;
    let mut all = Vec::new();
    loop {
        // Looks that come late stand for those between: a revision has come meanwhile.
        let seen = (i64::MAX, compacted);
        let Some(now) = keeper.next_look(seen, pressure).filter(|now| *now <= end) else {
            return all;
        };
        let revision = now.as_secs().cast_signed() + 1;
        if let Some(target) = keeper.look(now, (revision, compacted), pressure, |_| true) {
            assert!(target > compacted && target <= revision);
            compacted = target;
            all.push((now.as_secs(), target));
        }
    }
}

#[test]
fn a_short_period_is_compacted_by_itself_each_period() {
    let mut keeper = keeper(Retention::Period(5 * MINUTE));
    // Revision r is of second r - 1: five minutes are kept, and ten at most.
    let all = run(&mut keeper, 20 * MINUTE, Pressure::None);
    assert_eq!(all, [(300, 1), (630, 331), (960, 661)]);
}

#[test]
fn a_long_period_is_compacted_each_hour() {
    let mut keeper = keeper(Retention::Period(180 * MINUTE));
    let all = run(&mut keeper, 400 * MINUTE, Pressure::None);
    let hours: Vec<_> = all.iter().map(|(at, _)| at / 3600).collect();
    assert_eq!(hours, [3, 4, 5, 6]);
    for (at, target) in all {
        assert!(target <= at.cast_signed() + 1 - 180 * 60, "{target} is less than 3 h old at {at}");
    }
}

#[test]
fn a_number_of_revisions_stays() {
    let mut keeper = keeper(Retention::Revisions(100));
    assert_eq!(run(&mut keeper, 10 * MINUTE, Pressure::None), [(300, 201), (600, 501)]);
}

#[test]
fn without_a_retention_history_goes_only_when_space_runs_short() {
    let mut keeper = keeper(Retention::WhileRoom);
    assert_eq!(run(&mut keeper, 60 * MINUTE, Pressure::None), []);
    let now = 60 * MINUTE + PRESSED_EVERY;
    let seen = (3606, 0);
    assert_eq!(keeper.look(now, seen, Pressure::Soft, |_| false), None);
    assert_eq!(keeper.look(now, seen, Pressure::Soft, |_| true), Some(3301));
    // The last ten seconds are never asked for.
    let later = now + Duration::from_secs(10);
    assert_eq!(keeper.look(later, (3616, 3301), Pressure::Hard, |_| true), Some(3606));
}

#[test]
fn a_retention_that_was_asked_for_holds_whatever_the_space() {
    let mut keeper = keeper(Retention::Period(60 * MINUTE));
    assert_eq!(run(&mut keeper, 59 * MINUTE, Pressure::Hard), []);
    let all = run(&mut keeper, 62 * MINUTE, Pressure::Hard);
    // What is older goes at once and not with the next hour.
    assert!(all.len() > 3, "{all:?}");
    assert!(all.iter().all(|(at, target)| *target <= at.cast_signed() + 1 - 3600), "{all:?}");
}

#[test]
fn a_compaction_by_others_counts() {
    let mut keeper = keeper(Retention::Period(5 * MINUTE));
    let look = |keeper: &mut Keeper, minute: u32, seen| {
        keeper.look(minute * MINUTE, seen, Pressure::None, |_| true)
    };
    assert_eq!(look(&mut keeper, 2, (10, 0)), None);
    assert_eq!(look(&mut keeper, 4, (20, 10)), None);
    assert_eq!(look(&mut keeper, 7, (30, 10)), None);
    assert_eq!(look(&mut keeper, 9, (40, 10)), Some(20));
}

#[test]
fn nobody_looks_when_nothing_has_changed() {
    let mut keeper = keeper(Retention::Period(5 * MINUTE));
    assert!(keeper.next_look((1, 0), Pressure::None).is_some());
    assert_eq!(keeper.look(6 * MINUTE, (1, 0), Pressure::None, |_| true), Some(1));
    assert_eq!(keeper.next_look((1, 1), Pressure::None), None);
    // After a year, it is looked at once more, and what was there before is that old.
    let year = 365 * 24 * 60 * MINUTE;
    assert!(keeper.next_look((9, 1), Pressure::None).unwrap() < year);
    assert_eq!(keeper.look(year, (9, 1), Pressure::None, |_| true), None);
    assert_eq!(keeper.look(year + 6 * MINUTE, (9, 1), Pressure::None, |_| true), Some(9));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut keeper = keeper(Retention::Period(24 * 60 * MINUTE));
    run(&mut keeper, 72 * 60 * MINUTE, Pressure::Soft);
    assert!(keeper.seen.len() < 1000, "{}", keeper.seen.len());
}

#[test]
fn few_revisions_stay_for_an_hour() {
    let mut keeper = Keeper { few_revisions: 1000, ..keeper(Retention::Period(5 * MINUTE)) };
    let all = run(&mut keeper, 50 * MINUTE, Pressure::None);
    // One a second: a thousand are there soon after a quarter of an hour.
    assert_eq!(all[0].1 / 100, 10, "{all:?}");
    let mut keeper = Keeper { few_revisions: 1_000_000, ..keeper };
    let all = run(&mut keeper, 200 * MINUTE, Pressure::None);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[1].0 - all[0].0 >= 3600, "{all:?}");
}
