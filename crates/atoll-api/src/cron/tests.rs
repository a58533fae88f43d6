//! Schedules as upstream's parser reads them.

use super::*;

fn next(schedule: &str, after: &str, zone_name: &str) -> String {
    let schedule = Schedule::parse(schedule).unwrap();
    let next = schedule.next(after.parse().unwrap(), &zone(zone_name).unwrap());
    next.map_or_else(|| "never".to_owned(), |at| at.to_string())
}

#[test]
fn starts_when_every_field_agrees() {
    let cases = [
        ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        ("*/15 * * * *", "2026-01-01T00:14:59Z", "2026-01-01T00:15:00Z"),
        ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
        ("0 6 * * mon-fri", "2026-01-02T07:00:00Z", "2026-01-05T06:00:00Z"),
        ("0 0 1,15 * 3", "2026-01-02T00:00:00Z", "2026-01-07T00:00:00Z"),
        ("0 0 29 feb *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
        ("@monthly", "2026-01-31T10:00:00Z", "2026-02-01T00:00:00Z"),
        ("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
        ("0 0 31 2 *", "2026-01-01T00:00:00Z", "never"),
        ("TZ=Europe/Paris 0 6 * * *", "2026-01-01T00:00:00Z", "2026-01-01T05:00:00Z"),
    ];
    for (schedule, after, wanted) in cases {
        assert_eq!(next(schedule, after, "UTC"), wanted, "{schedule} after {after}");
    }
}

#[test]
fn a_zone_decides_what_the_hours_are() {
    let (schedule, zone) = ("30 2 * * *", "America/New_York");
    // The clock jumps from 2:00 to 3:00 on 8 March.
    assert_eq!(next(schedule, "2026-03-08T00:00:00Z", zone), "2026-03-09T06:30:00Z");
    // It shows 1:30 twice on 1 November.
    assert_eq!(next("30 1 * * *", "2026-11-01T05:00:00Z", zone), "2026-11-01T05:30:00Z");
    assert_eq!(next("30 1 * * *", "2026-11-01T05:30:00Z", zone), "2026-11-01T06:30:00Z");
}

#[test]
fn what_is_wrong_is_said_in_upstreams_words() {
    let cases = [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        ("@fortnightly", "unrecognized descriptor: @fortnightly"),
        ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
    ];
    for (schedule, wanted) in cases {
        assert_eq!(Schedule::parse(schedule).unwrap_err().to_string(), wanted, "{schedule}");
    }
}

#[test]
fn zones_are_those_of_the_database() {
    assert!(zone("Asia/Tokyo").is_some());
    assert!(zone("Europe/Atlantis").is_none());
}
