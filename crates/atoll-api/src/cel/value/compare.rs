//! Equality and order of values.

use std::cmp::Ordering;

use super::{List, Map, Value};
use crate::cel::decl::ListKind;
use crate::cel::error::EvalError;

/// Whether two values are the same. Numbers are compared by what they are worth, whatever their
/// types; values of different types are different, and never an error.
///
/// # Errors
///
/// When an item of an object is not of its declared type.
pub(in crate::cel) fn equal(one: &Value<'_>, other: &Value<'_>) -> Result<bool, EvalError> {
    Ok(match (one, other) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(one), Value::Bool(other)) => one == other,
        (Value::String(one), Value::String(other)) => one.as_str() == other.as_str(),
        (Value::Bytes(one), Value::Bytes(other)) => one == other,
        (Value::Timestamp(one), Value::Timestamp(other)) => one == other,
        (Value::Duration(one), Value::Duration(other)) => one == other,
        (Value::Type(one), Value::Type(other)) => one == other,
        (Value::List(one), Value::List(other)) => lists(one, other)?,
        (Value::Map(one), Value::Map(other)) => maps(one, other)?,
        (Value::Object(one, decl), Value::Object(other, _)) => {
            for (name, field) in decl.fields.values() {
                let same = match (one.get(name), other.get(name)) {
                    (None, None) => true,
                    (Some(one), Some(other)) => {
                        equal(&Value::of_declared(one, field)?, &Value::of_declared(other, field)?)?
                    }
                    _ => false,
                };
                if !same {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Struct(one), Value::Struct(other)) => {
            if one.name != other.name || one.fields.len() != other.fields.len() {
                return Ok(false);
            }
            for (name, value) in &one.fields {
                let found = other.fields.iter().find(|(own, _)| own == name);
                let Some((_, found)) = found else { return Ok(false) };
                if !equal(value, found)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Optional(one), Value::Optional(other)) => match (one, other) {
            (None, None) => true,
            (Some(one), Some(other)) => equal(one, other)?,
            _ => false,
        },
        (Value::Opaque(one), Value::Opaque(other)) => one.equals(other),
        _ => numbers(one, other) == Some(Ordering::Equal),
    })
}

fn lists(one: &List<'_>, other: &List<'_>) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    if *one.kind() != ListKind::Atomic {
        return without_order(one, other);
    }
    for index in 0..one.len() {
        let (Some(one), Some(other)) = (one.get(index), other.get(index)) else {
            return Ok(false);
        };
        if !equal(&one?, &other?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sets, and lists whose items have keys. Keys are part of the items, so it is enough to find
/// each among the others.
fn without_order(one: &List<'_>, other: &List<'_>) -> Result<bool, EvalError> {
    let others = other.to_vec()?;
    for index in 0..one.len() {
        let Some(item) = one.get(index) else { continue };
        let item = item?;
        let mut found = false;
        for other in &others {
            if equal(&item, other)? {
                found = true;
                break;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

fn maps(one: &Map<'_>, other: &Map<'_>) -> Result<bool, EvalError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    for key in one.keys() {
        let (Some(own), Some(others)) = (one.get(&key), other.get(&key)) else {
            return Ok(false);
        };
        if !equal(&own?, &others?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two values; `None` when there is none.
pub(in crate::cel) fn compare(one: &Value<'_>, other: &Value<'_>) -> Option<Ordering> {
    match (one, other) {
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        (Value::String(one), Value::String(other)) => Some(one.as_str().cmp(other.as_str())),
        (Value::Bytes(one), Value::Bytes(other)) => Some(one.cmp(other)),
        (Value::Timestamp(one), Value::Timestamp(other)) => Some(one.cmp(other)),
        (Value::Duration(one), Value::Duration(other)) => Some(one.cmp(other)),
        _ => numbers(one, other),
    }
}

/// Numbers of any two types, exactly: no integer goes through a double.
fn numbers(one: &Value<'_>, other: &Value<'_>) -> Option<Ordering> {
    match (one, other) {
        (Value::Double(one), Value::Double(other)) => one.partial_cmp(other),
        (Value::Double(one), _) => integer(other).and_then(|other| with_double(*one, other)),
        (_, Value::Double(other)) => {
            integer(one).and_then(|one| with_double(*other, one)).map(Ordering::reverse)
        }
        _ => Some(integer(one)?.cmp(&integer(other)?)),
    }
}

fn integer(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn with_double(double: f64, integer: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Beyond every integer of 64 bits, where a cast would lose nothing that matters.
    if double >= 1e20 {
        return Some(Ordering::Greater);
    }
    if double <= -1e20 {
        return Some(Ordering::Less);
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded just above")]
    let whole = double.trunc() as i128;
    Some(
        whole
            .cmp(&integer)
            .then_with(|| double.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)),
    )
}
