//! What a YAML scalar means: the rules of YAML 1.1 as Kubernetes' converter applies them.
//!
//! `yes` and `on` are booleans here, `0777` is octal, and dates stay strings.

use base64::Engine as _;
use serde_json::{Number, Value};

/// The value of a scalar; `tag` is the suffix of a tag of YAML's own (`str`, `int`).
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Result<Value, String> {
    match tag {
        Some("str") => return Ok(Value::from(text)),
        Some("binary") => return binary(text),
        Some("int" | "float" | "bool" | "null") => {}
        _ if !plain => return Ok(Value::from(text)),
        _ => {}
    }
    if let Some(value) = constant(text) {
        return Ok(value);
    }
    if text.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.')) {
        if let Some(integer) = integer(text) {
            return Ok(Value::Number(integer));
        }
        if matches!(text, ".inf" | "-.inf" | "+.inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
            return Err(format!("{text} has no form in JSON"));
        }
        if let Some(float) = float(text) {
            return Ok(Value::Number(float));
        }
    }
    Ok(Value::from(text))
}

/// Keys of JSON are strings, so other scalars are written out.
pub(super) fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Whether a plain scalar with this text would be read as a string.
pub(super) fn is_plain_string(text: &str) -> bool {
    matches!(resolve(text, true, None), Ok(Value::String(_)))
}

fn constant(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ => return None,
    })
}

fn binary(text: &str) -> Result<Value, String> {
    let compact: String = text.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD
        .decode(compact)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Value::from)
        .ok_or_else(|| "!!binary value contains invalid base64 data".to_owned())
}

fn integer(text: &str) -> Option<Number> {
    let text = text.replace('_', "");
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text.as_str()),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|first: char| first.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if !negative {
        return Some(magnitude.into());
    }
    i64::try_from(-i128::from(magnitude)).ok().map(Number::from)
}

fn float(text: &str) -> Option<Number> {
    let shape_fits = text.bytes().enumerate().all(|(at, byte)| match byte {
        b'0'..=b'9' | b'.' | b'e' | b'E' => true,
        b'+' | b'-' => at == 0 || matches!(text.as_bytes()[at - 1], b'e' | b'E'),
        _ => false,
    });
    if !shape_fits || !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: f64 = text.parse().ok()?;
    // A whole number is written without a fraction, as Go's encoder does.
    #[allow(clippy::cast_possible_truncation, reason = "checked to be a small whole number")]
    if number.fract() == 0.0 && number.abs() < 1e15 {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}
