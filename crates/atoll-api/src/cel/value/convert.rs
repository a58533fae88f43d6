//! Between values and text or JSON, in the forms of Go.

use base64::Engine as _;
use jiff::{Timestamp, civil, tz::TimeZone};
use serde_json::{Map as JsonMap, Number, Value as Json};

use super::Value;
use crate::cel::error::{EvalError, fail};
use crate::go_time;

const NANOS: i128 = 1_000_000_000;
/// The first double that is no integer of 64 bits any more.
pub(in crate::cel) const INT_END: f64 = 9_223_372_036_854_775_808.0;

pub(super) fn to_json(value: &Value<'_>) -> Result<Json, EvalError> {
    Ok(match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Uint(value) => Json::from(*value),
        Value::Double(value) => match whole(*value) {
            Some(whole) => Json::from(whole),
            None => match Number::from_f64(*value) {
                Some(number) => Json::Number(number),
                None => return fail("a number that is not finite has no JSON"),
            },
        },
        Value::String(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => {
            Json::from(base64::engine::general_purpose::STANDARD.encode(bytes.as_ref()))
        }
        Value::Timestamp(at) => Json::from(timestamp_text(*at)),
        Value::Duration(nanos) => Json::from(duration_text(*nanos)),
        Value::List(list) => {
            Json::Array(list.to_vec()?.iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            let mut out = JsonMap::new();
            for key in map.keys() {
                let Some(own) = map.get(&key) else { continue };
                out.insert(shown(&key), to_json(&own?)?);
            }
            Json::Object(out)
        }
        Value::Object(json, _) => Json::Object((*json).clone()),
        Value::Struct(made) => {
            let mut out = JsonMap::new();
            for (name, value) in &made.fields {
                out.insert(name.to_string(), to_json(value)?);
            }
            Json::Object(out)
        }
        Value::Optional(Some(value)) => to_json(value)?,
        Value::Type(_) | Value::Opaque(_) => {
            return fail(format!("a value of type {} has no JSON", value.type_name()));
        }
    })
}

/// As Go prints it in an error.
pub(in crate::cel) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => text.as_str().to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double_text(*value),
        other => other.type_name().to_string(),
    }
}

/// A double that is an integer of 64 bits.
pub(in crate::cel) fn whole(value: f64) -> Option<i64> {
    let inside = (-INT_END..INT_END).contains(&value);
    #[allow(clippy::cast_possible_truncation, reason = "bounded just above")]
    (value.fract() == 0.0 && inside).then_some(value as i64)
}

/// What may stand for an index.
pub(in crate::cel) fn index(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Int(value) => Some(*value),
        Value::Uint(value) => i64::try_from(*value).ok(),
        Value::Double(value) => whole(*value),
        _ => None,
    }
}

pub(in crate::cel) fn base64<'a>(text: &str) -> Result<Value<'a>, EvalError> {
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(bytes) => Ok(Value::Bytes(bytes.into())),
        Err(_) => fail("invalid base64"),
    }
}

/// `%v` of a double: without a fraction where it has none.
pub(in crate::cel) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let size = value.abs();
    if value != 0.0 && !(1e-4..1e21).contains(&size) {
        return exponent(&format!("{value:e}"));
    }
    format!("{value}")
}

/// Go writes at least two digits and a sign.
pub(in crate::cel) fn exponent(text: &str) -> String {
    let Some((mantissa, power)) = text.split_once('e') else { return text.to_owned() };
    let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

// === times ===

/// RFC 3339 in the years 1 to 9999.
pub(in crate::cel) fn timestamp(text: &str) -> Result<Timestamp, EvalError> {
    let bad = || {
        EvalError::Failed(format!(
            "parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse",
            crate::field::quote(text)
        ))
    };
    if !is_rfc3339(text.as_bytes()) {
        return Err(bad());
    }
    let at: Timestamp = text.parse().ok().ok_or_else(bad)?;
    in_range(at)
}

pub(in crate::cel) fn in_range(at: Timestamp) -> Result<Timestamp, EvalError> {
    // 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
    if (-62_135_596_800..=253_402_300_799).contains(&at.as_second()) {
        return Ok(at);
    }
    fail("timestamp overflow")
}

fn is_rfc3339(text: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let is = |at: usize, one: u8| text.get(at) == Some(&one);
    let head = digits(0..4)
        && is(4, b'-')
        && digits(5..7)
        && is(7, b'-')
        && digits(8..10)
        && is(10, b'T')
        && digits(11..13)
        && is(13, b':')
        && digits(14..16)
        && is(16, b':')
        && digits(17..19);
    if !head {
        return false;
    }
    let mut at = 19;
    if is(at, b'.') {
        let from = at + 1;
        at = from;
        while text.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if at == from {
            return false;
        }
    }
    if is(at, b'Z') {
        return text.len() == at + 1;
    }
    (is(at, b'+') || is(at, b'-'))
        && digits(at + 1..at + 3)
        && is(at + 3, b':')
        && digits(at + 4..at + 6)
        && text.len() == at + 6
}

/// `date` and `date-time` of a schema.
pub(super) fn declared_timestamp<'a>(text: &str) -> Result<Value<'a>, EvalError> {
    if text.len() == 10
        && let Ok(date) = text.parse::<civil::Date>()
        && let Ok(zoned) = date.to_zoned(TimeZone::UTC)
    {
        return Ok(Value::Timestamp(zoned.timestamp()));
    }
    timestamp(text).map(Value::Timestamp)
}

/// RFC 3339 with as many digits of a second as are not zero.
pub(in crate::cel) fn timestamp_text(at: Timestamp) -> String {
    let whole = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let nanos = at.as_nanosecond().rem_euclid(NANOS);
    if nanos == 0 {
        return format!("{whole}Z");
    }
    let digits = format!("{nanos:09}");
    format!("{whole}.{}Z", digits.trim_end_matches('0'))
}

/// Seconds as a decimal: `1.5s`.
pub(in crate::cel) fn duration_text(nanos: i64) -> String {
    let (sign, size) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (seconds, rest) = (size / 1_000_000_000, size % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let digits = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", digits.trim_end_matches('0'))
}

/// `1h30m`, `-1.5s`, `100ms`, in nanoseconds.
pub(in crate::cel) fn duration(text: &str) -> Result<i64, EvalError> {
    go_time::parse_duration(text).map_err(EvalError::Failed)
}
