//! Types whose JSON is not that of their fields.

use jiff::Timestamp;
use serde_json::Value;

use super::super::wire::{end_message, put_bytes, put_int, start_message};
use super::super::{ProtoError, ZERO_TIME_SECONDS};
use super::misfit;
use crate::quantity::Quantity;
use crate::schema::{self, Special};

const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
/// A MicroTime keeps whole microseconds.
const NANOS_PER_MICRO: i32 = 1000;

pub(super) fn message(
    special: Special,
    value: &Value,
    out: &mut Vec<u8>,
    depth: usize,
) -> Result<(), ProtoError> {
    match (special, value) {
        (Special::Quantity, Value::String(text)) => quantity(text, out)?,
        (Special::Quantity, Value::Number(number)) => quantity(&number.to_string(), out)?,
        (Special::IntOrString, Value::String(text)) => int_or_string(1, 0, text, out),
        (Special::IntOrString, Value::Number(number)) => {
            int_or_string(0, number.as_i64().unwrap_or_default(), "", out);
        }
        (Special::Time | Special::MicroTime, Value::Null) => {}
        (Special::Time | Special::MicroTime, Value::String(text)) => {
            time(text, special == Special::MicroTime, out)?;
        }
        (Special::Raw | Special::FieldsV1 | Special::Json, _) => {
            put_bytes(out, 1, value.to_string().as_bytes());
        }
        (Special::PropsOrBool, Value::Bool(flag)) => put_int(out, 1, i64::from(*flag)),
        (Special::PropsOrBool, _) => {
            put_int(out, 1, 1);
            props(2, value, out, depth)?;
        }
        (Special::PropsOrStrings, Value::Array(items)) => {
            for text in items.iter().filter_map(Value::as_str) {
                put_bytes(out, 2, text.as_bytes());
            }
        }
        (Special::PropsOrArray, Value::Array(items)) => {
            items.iter().try_for_each(|item| props(2, item, out, depth))?;
        }
        (Special::PropsOrArray | Special::PropsOrStrings, _) => props(1, value, out, depth)?,
        _ => return Err(misfit("", value)),
    }
    Ok(())
}

/// The content of a field that is no pointer and was not given.
pub(super) fn zero(special: Special, out: &mut Vec<u8>) {
    match special {
        Special::Quantity => put_bytes(out, 1, b"0"),
        Special::IntOrString => int_or_string(0, 0, "", out),
        Special::PropsOrBool => put_int(out, 1, 0),
        Special::Time
        | Special::MicroTime
        | Special::Raw
        | Special::FieldsV1
        | Special::Json
        | Special::PropsOrArray
        | Special::PropsOrStrings => {}
    }
}

fn quantity(text: &str, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let parsed = text.trim().parse::<Quantity>();
    let parsed = parsed
        .map_err(|error| ProtoError::Field { what: error.to_string(), path: String::new() })?;
    put_bytes(out, 1, parsed.to_string().as_bytes());
    Ok(())
}

fn int_or_string(kind: i64, number: i64, text: &str, out: &mut Vec<u8>) {
    put_int(out, 1, kind);
    put_int(out, 2, number);
    put_bytes(out, 3, text.as_bytes());
}

fn time(text: &str, micro: bool, out: &mut Vec<u8>) -> Result<(), ProtoError> {
    let stamp: Timestamp = text.parse().map_err(|error: jiff::Error| ProtoError::Field {
        what: error.to_string(),
        path: String::new(),
    })?;
    let (seconds, nanos) = floor(stamp);
    if seconds == ZERO_TIME_SECONDS && nanos == 0 {
        return Ok(());
    }
    put_int(out, 1, seconds);
    // A Time has whole seconds in every form.
    let nanos = if micro { nanos - nanos % NANOS_PER_MICRO } else { 0 };
    put_int(out, 2, i64::from(nanos));
    Ok(())
}

/// Go counts fractions of a second upwards, before 1970 too.
fn floor(stamp: Timestamp) -> (i64, i32) {
    let (seconds, nanos) = (stamp.as_second(), stamp.subsec_nanosecond());
    if nanos < 0 { (seconds - 1, nanos + 1_000_000_000) } else { (seconds, nanos) }
}

fn props(number: u32, value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), ProtoError> {
    let schema = schema::by_name(PROPS).ok_or(ProtoError::TooDeep)?;
    let start = start_message(out, number);
    super::message(schema, value, out, depth + 1)?;
    end_message(out, start);
    Ok(())
}
