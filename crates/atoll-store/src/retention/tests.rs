use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Looks whenever it is due until `end`, while one revision comes a second; what was compacted to,
/// and when.
fn run(keeper: &mut Keeper, end: Duration, pressure: Pressure) -> Vec<(u64, Revision)> {
    let mut compacted = 0;
    let mut all = Vec::new();
    loop {
        let now = keeper.next_look(pressure);
        if now > end {
            return all;
        }
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
    let mut keeper = Keeper::new(Retention::Period(5 * MINUTE), Duration::ZERO, 1);
    // Revision r is of second r - 1: five minutes are kept, and ten at most.
    let all = run(&mut keeper, 20 * MINUTE, Pressure::None);
    assert_eq!(all, [(300, 1), (630, 331), (960, 661)]);
}

#[test]
fn a_long_period_is_compacted_each_hour() {
    let mut keeper = Keeper::new(Retention::Period(180 * MINUTE), Duration::ZERO, 1);
    let all = run(&mut keeper, 400 * MINUTE, Pressure::None);
    let hours: Vec<_> = all.iter().map(|(at, _)| at / 3600).collect();
    assert_eq!(hours, [3, 4, 5, 6]);
    for (at, target) in all {
        assert!(target <= at.cast_signed() + 1 - 180 * 60, "{target} is less than 3 h old at {at}");
    }
}

#[test]
fn a_number_of_revisions_stays() {
    let mut keeper = Keeper::new(Retention::Revisions(100), Duration::ZERO, 1);
    assert_eq!(run(&mut keeper, 10 * MINUTE, Pressure::None), [(300, 201), (600, 501)]);
}

#[test]
fn without_a_retention_history_goes_only_when_space_runs_short() {
    let mut keeper = Keeper::new(Retention::WhileRoom, Duration::ZERO, 1);
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
    let mut keeper = Keeper::new(Retention::Period(60 * MINUTE), Duration::ZERO, 1);
    assert_eq!(run(&mut keeper, 59 * MINUTE, Pressure::Hard), []);
    let all = run(&mut keeper, 62 * MINUTE, Pressure::Hard);
    // What is older goes at once and not with the next hour.
    assert!(all.len() > 3, "{all:?}");
    assert!(all.iter().all(|(at, target)| *target <= at.cast_signed() + 1 - 3600), "{all:?}");
}

#[test]
fn a_compaction_by_others_counts() {
    let mut keeper = Keeper::new(Retention::Period(5 * MINUTE), Duration::ZERO, 1);
    let look = |keeper: &mut Keeper, minute: u32, seen| {
        keeper.look(minute * MINUTE, seen, Pressure::None, |_| true)
    };
    assert_eq!(look(&mut keeper, 2, (10, 0)), None);
    assert_eq!(look(&mut keeper, 4, (20, 10)), None);
    assert_eq!(look(&mut keeper, 7, (30, 10)), None);
    assert_eq!(look(&mut keeper, 9, (40, 10)), Some(20));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut keeper = Keeper::new(Retention::Period(24 * 60 * MINUTE), Duration::ZERO, 1);
    run(&mut keeper, 72 * 60 * MINUTE, Pressure::Soft);
    assert!(keeper.seen.len() < 1000, "{}", keeper.seen.len());
}
