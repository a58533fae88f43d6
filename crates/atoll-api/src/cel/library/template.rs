//! `"%s has %d".format([a, b])`.

use super::{Context, Function, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::{self, List, Value};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Digits after the point, when none are asked for.
const PRECISION: usize = 6;
/// Digits that may be asked for: more is no number any more, but a way to fill memory.
const PRECISION_MAX: usize = 1000;

pub(super) const FUNCTIONS: &[Function] =
    &[function("format", &["string.(list<dyn>) string"], format)];

fn format<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::String(template), Value::List(list)] = args else { return no_overload() };
    let mut out = String::new();
    let mut rest = template.as_str();
    let mut next = 0;
    while let Some(at) = rest.find('%') {
        out.push_str(rest.get(..at).unwrap_or(""));
        rest = rest.get(at + 1..).unwrap_or("");
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (clause, after) = Clause::parse(rest)?;
        rest = after;
        let value = argument(list, next)?;
        next += 1;
        clause.write(&value, &mut out)?;
    }
    out.push_str(rest);
    Ok(Value::text(out))
}

fn argument<'a>(list: &List<'a>, index: usize) -> Evaluated<'a> {
    list.get(index).unwrap_or_else(|| fail(format!("index {index} out of range")))
}

struct Clause {
    precision: Option<usize>,
    verb: char,
}

impl Clause {
    fn parse(text: &str) -> Result<(Self, &str), EvalError> {
        let mut precision = None;
        let mut rest = text;
        if let Some(after) = text.strip_prefix('.') {
            let end = after.find(|one: char| !one.is_ascii_digit()).unwrap_or(after.len());
            let digits = after.get(..end).unwrap_or("");
            let wanted = digits.parse().unwrap_or(0);
            if wanted > PRECISION_MAX {
                return fail(format!(
                    "could not parse formatting string: precision {digits} is too large"
                ));
            }
            precision = Some(wanted);
            rest = after.get(end..).unwrap_or("");
        }
        let Some(verb) = rest.chars().next() else {
            return fail("could not parse formatting string: unexpected end of string");
        };
        if !"sdfebxXo".contains(verb) {
            return fail(format!(
                "could not parse formatting string: unrecognized formatting clause \"{verb}\""
            ));
        }
        Ok((Self { precision, verb }, rest.get(verb.len_utf8()..).unwrap_or("")))
    }

    fn write(&self, value: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
        match self.verb {
            's' => text(value, out)?,
            'd' => match value {
                Value::Int(value) => out.push_str(&value.to_string()),
                Value::Uint(value) => out.push_str(&value.to_string()),
                Value::Double(value) if !value.is_finite() => {
                    out.push_str(&value::double_text(*value));
                }
                other => return self.wrong("decimal", "integers", other),
            },
            'f' | 'e' => self.number(value, out)?,
            'b' => match value {
                Value::Int(value) => out.push_str(&signed(*value, |size| format!("{size:b}"))),
                Value::Uint(value) => out.push_str(&format!("{value:b}")),
                Value::Bool(value) => out.push(if *value { '1' } else { '0' }),
                other => return self.wrong("binary", "integers and bools", other),
            },
            'o' => match value {
                Value::Int(value) => out.push_str(&signed(*value, |size| format!("{size:o}"))),
                Value::Uint(value) => out.push_str(&format!("{value:o}")),
                other => return self.wrong("octal", "integers", other),
            },
            _ => self.hexadecimal(value, out)?,
        }
        Ok(())
    }

    fn wrong(&self, what: &str, takes: &str, value: &Value<'_>) -> Result<(), EvalError> {
        fail(format!(
            "error during formatting: {what} clause can only be used on {takes}, was given {}",
            value.type_name()
        ))
    }

    fn number(&self, value: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
        #[allow(clippy::cast_precision_loss, reason = "so is the verb defined")]
        let number = match value {
            Value::Double(value) => *value,
            Value::Int(value) => *value as f64,
            Value::Uint(value) => *value as f64,
            other if self.verb == 'f' => return self.wrong("fixed-point", "doubles", other),
            other => return self.wrong("scientific", "doubles", other),
        };
        let digits = self.precision.unwrap_or(PRECISION);
        if !number.is_finite() {
            out.push_str(value::double_text(number).trim_start_matches('+'));
        } else if self.verb == 'f' {
            out.push_str(&format!("{number:.digits$}"));
        } else {
            out.push_str(&value::exponent(&format!("{number:.digits$e}")));
        }
        Ok(())
    }

    fn hexadecimal(&self, value: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
        let bytes = |bytes: &[u8]| bytes.iter().map(|one| format!("{one:02x}")).collect::<String>();
        let made = match value {
            Value::Int(value) => signed(*value, |size| format!("{size:x}")),
            Value::Uint(value) => format!("{value:x}"),
            Value::String(text) => bytes(text.as_str().as_bytes()),
            Value::Bytes(own) => bytes(own),
            other => return self.wrong("hex", "integers, byte buffers, and strings", other),
        };
        out.push_str(&if self.verb == 'X' { made.to_ascii_uppercase() } else { made });
        Ok(())
    }
}

fn signed(value: i64, size: impl Fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", size(value.unsigned_abs()))
}

/// `%s` takes everything.
fn text(value: &Value<'_>, out: &mut String) -> Result<(), EvalError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Timestamp(at) => out.push_str(&value::timestamp_text(*at)),
        Value::Duration(nanos) => out.push_str(&value::duration_text(*nanos)),
        Value::Double(number) => out.push_str(value::double_text(*number).trim_start_matches('+')),
        Value::String(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_) => {
            out.push_str(&value::shown(value));
        }
        Value::Type(name) => out.push_str(name),
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.to_vec()?.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                text(item, out)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                let Some(value) = map.get(&key) else { continue };
                let (mut key_text, mut value_text) = (String::new(), String::new());
                text(&key, &mut key_text)?;
                text(&value?, &mut value_text)?;
                entries.push(format!("{key_text}: {value_text}"));
            }
            // Maps have no order, texts do.
            entries.sort();
            out.push_str(&format!("{{{}}}", entries.join(", ")));
        }
        other => {
            return fail(format!(
                "error during formatting: string clause can only be used on strings, bools, bytes, \
                 ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                other.type_name()
            ));
        }
    }
    Ok(())
}
