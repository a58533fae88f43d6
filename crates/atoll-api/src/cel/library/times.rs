//! Timestamps and durations.

use jiff::{Timestamp, Zoned, tz};

use super::{Function, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::{self, Value};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const OF_TIME: &[&str] = &["timestamp.() int", "timestamp.(string) int"];
const OF_BOTH: &[&str] = &["timestamp.() int", "timestamp.(string) int", "duration.() int"];

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "timestamp",
        &["(timestamp) timestamp", "(string) timestamp", "(int) timestamp"],
        |args, _| match args {
            [at @ Value::Timestamp(_)] => Ok(at.clone()),
            [Value::String(text)] => value::parse_timestamp(text.as_str()).map(Value::Timestamp),
            [Value::Int(seconds)] => match Timestamp::from_second(*seconds) {
                Ok(at) => value::in_range(at).map(Value::Timestamp),
                Err(_) => fail("timestamp overflow"),
            },
            _ => no_overload(),
        },
    ),
    function(
        "duration",
        &["(duration) duration", "(string) duration", "(int) duration"],
        |args, _| match args {
            [nanos @ Value::Duration(_)] => Ok(nanos.clone()),
            [Value::String(text)] => value::parse_duration(text.as_str()).map(Value::Duration),
            [Value::Int(nanos)] => Ok(Value::Duration(*nanos)),
            _ => no_overload(),
        },
    ),
    function("getFullYear", OF_TIME, |args, _| part(args, |at| at.year().into())),
    function("getMonth", OF_TIME, |args, _| part(args, |at| i64::from(at.month()) - 1)),
    function("getDayOfYear", OF_TIME, |args, _| part(args, |at| i64::from(at.day_of_year()) - 1)),
    function("getDayOfMonth", OF_TIME, |args, _| part(args, |at| i64::from(at.day()) - 1)),
    function("getDate", OF_TIME, |args, _| part(args, |at| at.day().into())),
    function("getDayOfWeek", OF_TIME, |args, _| {
        part(args, |at| at.weekday().to_sunday_zero_offset().into())
    }),
    function("getHours", OF_BOTH, |args, _| either(args, 3_600_000_000_000, |at| at.hour().into())),
    function("getMinutes", OF_BOTH, |args, _| {
        either(args, 60_000_000_000, |at| at.minute().into())
    }),
    function("getSeconds", OF_BOTH, |args, _| either(args, 1_000_000_000, |at| at.second().into())),
    function("getMilliseconds", OF_BOTH, |args, _| {
        either(args, 1_000_000, |at| at.millisecond().into())
    }),
];

/// A timestamp moved by nanoseconds, within the years 1 to 9999.
pub(super) fn shift<'a>(at: Timestamp, nanos: i64) -> Evaluated<'a> {
    match at.checked_add(jiff::SignedDuration::from_nanos(nanos)) {
        Ok(moved) => value::in_range(moved).map(Value::Timestamp),
        Err(_) => fail("timestamp overflow"),
    }
}

/// A part of a timestamp, in UTC or the time zone that is named.
fn part<'a>(args: &[Value<'a>], read: impl Fn(&Zoned) -> i64) -> Evaluated<'a> {
    let (at, zone) = match args {
        [Value::Timestamp(at)] => (at, tz::TimeZone::UTC),
        [Value::Timestamp(at), Value::String(zone)] => (at, time_zone(zone.as_str())?),
        _ => return no_overload(),
    };
    Ok(Value::Int(read(&at.to_zoned(zone))))
}

/// Of a timestamp the part, of a duration the whole in that unit.
fn either<'a>(args: &[Value<'a>], unit_nanos: i64, read: impl Fn(&Zoned) -> i64) -> Evaluated<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit_nanos)),
        _ => part(args, read),
    }
}

/// `UTC`, `+02:00`, `-8:00`, or a name of the time zone database.
fn time_zone(name: &str) -> Result<tz::TimeZone, EvalError> {
    if name.is_empty() || name == "UTC" {
        return Ok(tz::TimeZone::UTC);
    }
    if let Some((hours, minutes)) = name.split_once(':') {
        let bad = || EvalError::Failed(format!("invalid time zone offset {name:?}"));
        let negative = hours.starts_with('-');
        let hours: i32 = hours.parse().ok().ok_or_else(bad)?;
        let minutes: i32 = minutes.parse().ok().ok_or_else(bad)?;
        if hours.abs() > 23 || !(0..60).contains(&minutes) {
            return Err(bad());
        }
        let minutes = if negative { -minutes } else { minutes };
        let offset = tz::Offset::from_seconds(hours * 3600 + minutes * 60).ok().ok_or_else(bad)?;
        return Ok(tz::TimeZone::fixed(offset));
    }
    match tz::TimeZone::get(name) {
        Ok(zone) => Ok(zone),
        Err(_) => fail(format!("unknown time zone {name}")),
    }
}
