//! Operators, conversions, and what the language itself brings.

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Context, Function, function, no_overload};
use crate::cel::decl::ListKind;
use crate::cel::error::{EvalError, fail};
use crate::cel::value::{self, List, Map, OwnMap, Value, compare, equal};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const ORDERED: &[&str] = &[
    "(bool, bool) bool",
    "(int, int) bool",
    "(int, double) bool",
    "(int, uint) bool",
    "(uint, uint) bool",
    "(uint, double) bool",
    "(uint, int) bool",
    "(double, double) bool",
    "(double, int) bool",
    "(double, uint) bool",
    "(string, string) bool",
    "(bytes, bytes) bool",
    "(timestamp, timestamp) bool",
    "(duration, duration) bool",
];

pub(super) const FUNCTIONS: &[Function] = &[
    function("@not_strictly_false", &["(bool) bool"], |_, _| no_overload()),
    function("_?_:_", &["(bool, T, T) T"], |_, _| no_overload()),
    function(
        "_[_]",
        &[
            "(list<T>, int) T",
            "(map<K,V>, K) V",
            "(optional<list<T>>, int) optional<T>",
            "(optional<map<K,V>>, K) optional<V>",
        ],
        |_, _| no_overload(),
    ),
    function(
        "_[?_]",
        &[
            "(list<T>, int) optional<T>",
            "(map<K,V>, K) optional<V>",
            "(optional<list<T>>, int) optional<T>",
            "(optional<map<K,V>>, K) optional<V>",
        ],
        |_, _| no_overload(),
    ),
    function(
        "_+_",
        &[
            "(int, int) int",
            "(uint, uint) uint",
            "(double, double) double",
            "(string, string) string",
            "(bytes, bytes) bytes",
            "(list<T>, list<T>) list<T>",
            "(duration, duration) duration",
            "(duration, timestamp) timestamp",
            "(timestamp, duration) timestamp",
        ],
        add,
    ),
    function(
        "cel.@mapInsert",
        &["(map<K,V>, K, V) map<K,V>", "(map<K,V>, map<K,V>) map<K,V>"],
        map_insert,
    ),
    function(
        "_-_",
        &[
            "(int, int) int",
            "(uint, uint) uint",
            "(double, double) double",
            "(duration, duration) duration",
            "(timestamp, duration) timestamp",
            "(timestamp, timestamp) duration",
        ],
        subtract,
    ),
    function("_*_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], multiply),
    function("_/_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], divide),
    function("_%_", &["(int, int) int", "(uint, uint) uint"], modulo),
    function("-_", &["(int) int", "(double) double"], negate),
    function("!_", &["(bool) bool"], |args, _| match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => no_overload(),
    }),
    function("_==_", &["(T, T) bool"], |args, _| equality(args, true)),
    function("_!=_", &["(T, T) bool"], |args, _| equality(args, false)),
    function("_<_", ORDERED, |args, _| order(args, |found| found == Ordering::Less)),
    function("_<=_", ORDERED, |args, _| order(args, |found| found != Ordering::Greater)),
    function("_>_", ORDERED, |args, _| order(args, |found| found == Ordering::Greater)),
    function("_>=_", ORDERED, |args, _| order(args, |found| found != Ordering::Less)),
    function("@in", &["(T, list<T>) bool", "(K, map<K,V>) bool"], contains),
    function("size", SIZED, size),
    function("bool", &["(bool) bool", "(string) bool"], to_bool),
    function("bytes", &["(bytes) bytes", "(string) bytes"], to_bytes),
    function(
        "double",
        &["(double) double", "(int) double", "(uint) double", "(string) double"],
        to_double,
    ),
    function(
        "int",
        &[
            "(int) int",
            "(uint) int",
            "(double) int",
            "(string) int",
            "(timestamp) int",
            "(duration) int",
        ],
        to_int,
    ),
    function("uint", &["(uint) uint", "(int) uint", "(double) uint", "(string) uint"], to_uint),
    function(
        "string",
        &[
            "(string) string",
            "(bool) string",
            "(bytes) string",
            "(double) string",
            "(duration) string",
            "(int) string",
            "(timestamp) string",
            "(uint) string",
            "(net.IP) string",
            "(net.CIDR) string",
        ],
        to_string,
    ),
    function("dyn", &["(T) dyn"], |args, _| match args {
        [value] => Ok(value.clone()),
        _ => no_overload(),
    }),
    function("type", &["(T) type<T>"], |args, _| match args {
        [value] => Ok(Value::Type(value.type_name())),
        _ => no_overload(),
    }),
];

const SIZED: &[&str] = &[
    "(string) int",
    "(bytes) int",
    "(list<T>) int",
    "(map<K,V>) int",
    "string.() int",
    "bytes.() int",
    "list<T>.() int",
    "map<K,V>.() int",
];

fn checked<'a, T>(
    result: Option<T>,
    make: impl FnOnce(T) -> Value<'a>,
    overflow: &str,
) -> Evaluated<'a> {
    result.map_or_else(|| fail(overflow), |value| Ok(make(value)))
}

const INT: &str = "integer overflow";
const UINT: &str = "unsigned integer overflow";
const DURATION: &str = "duration overflow";

fn add<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(one), Value::Int(other)] => checked(one.checked_add(*other), Value::Int, INT),
        [Value::Uint(one), Value::Uint(other)] => {
            checked(one.checked_add(*other), Value::Uint, UINT)
        }
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one + other)),
        [Value::String(one), Value::String(other)] => {
            Ok(Value::text([one.as_str(), other.as_str()].concat()))
        }
        [Value::Bytes(one), Value::Bytes(other)] => {
            Ok(Value::Bytes([one.as_ref(), other.as_ref()].concat().into()))
        }
        [Value::List(one), Value::List(other)] => join(one, other, context),
        [Value::Duration(one), Value::Duration(other)] => {
            checked(one.checked_add(*other), Value::Duration, DURATION)
        }
        [Value::Timestamp(at), Value::Duration(by)]
        | [Value::Duration(by), Value::Timestamp(at)] => super::times::shift(*at, *by),
        _ => no_overload(),
    }
}

/// Lists with keys are merged as server-side apply would merge them.
fn join<'a>(one: &List<'a>, other: &List<'a>, context: &Context) -> Evaluated<'a> {
    context.copy(one.len() + other.len())?;
    let mut items = one.to_vec()?;
    match one.kind() {
        ListKind::Atomic => items.extend(other.to_vec()?),
        ListKind::Set => {
            for item in other.to_vec()? {
                if !holds(&items, &item)? {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            for item in other.to_vec()? {
                match position(&items, &item, keys)? {
                    Some(position) => items[position] = item,
                    None => items.push(item),
                }
            }
        }
    }
    Ok(Value::list(items))
}

fn holds(items: &[Value<'_>], item: &Value<'_>) -> Result<bool, EvalError> {
    for own in items {
        if equal(own, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn position(
    items: &[Value<'_>],
    item: &Value<'_>,
    keys: &[String],
) -> Result<Option<usize>, EvalError> {
    'items: for (position, own) in items.iter().enumerate() {
        for key in keys {
            let key = Value::text(crate::cel::escape::escape(key).unwrap_or_default());
            let same = match (own.find(&key), item.find(&key)) {
                (None, None) => true,
                (Some(own), Some(other)) => equal(&own?, &other?)?,
                _ => false,
            };
            if !same {
                continue 'items;
            }
        }
        return Ok(Some(position));
    }
    Ok(None)
}

fn map_insert<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    let (Some(Value::Map(map)), rest) = (args.first(), args.get(1..).unwrap_or(&[])) else {
        return no_overload();
    };
    context.copy(map.len())?;
    let mut made = OwnMap::default();
    for key in map.keys() {
        if let Some(value) = map.get(&key) {
            made.insert(key, value?)?;
        }
    }
    match rest {
        [key, value] => made.insert(key.clone(), value.clone())?,
        [Value::Map(more)] => {
            for key in more.keys() {
                if let Some(value) = more.get(&key) {
                    made.insert(key, value?)?;
                }
            }
        }
        _ => return no_overload(),
    }
    Ok(Value::Map(Map::Own(Rc::new(made))))
}

fn subtract<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(one), Value::Int(other)] => checked(one.checked_sub(*other), Value::Int, INT),
        [Value::Uint(one), Value::Uint(other)] => {
            checked(one.checked_sub(*other), Value::Uint, UINT)
        }
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one - other)),
        [Value::Duration(one), Value::Duration(other)] => {
            checked(one.checked_sub(*other), Value::Duration, DURATION)
        }
        [Value::Timestamp(at), Value::Duration(by)] => match by.checked_neg() {
            Some(by) => super::times::shift(*at, by),
            None => fail(DURATION),
        },
        [Value::Timestamp(one), Value::Timestamp(other)] => {
            let nanos = one.as_nanosecond() - other.as_nanosecond();
            checked(i64::try_from(nanos).ok(), Value::Duration, DURATION)
        }
        _ => no_overload(),
    }
}

fn multiply<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(one), Value::Int(other)] => checked(one.checked_mul(*other), Value::Int, INT),
        [Value::Uint(one), Value::Uint(other)] => {
            checked(one.checked_mul(*other), Value::Uint, UINT)
        }
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one * other)),
        _ => no_overload(),
    }
}

fn divide<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            fail("division by zero")
        }
        [Value::Int(one), Value::Int(other)] => checked(one.checked_div(*other), Value::Int, INT),
        [Value::Uint(one), Value::Uint(other)] => {
            checked(one.checked_div(*other), Value::Uint, UINT)
        }
        [Value::Double(one), Value::Double(other)] => Ok(Value::Double(one / other)),
        _ => no_overload(),
    }
}

fn modulo<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            fail("modulus by zero")
        }
        [Value::Int(one), Value::Int(other)] => checked(one.checked_rem(*other), Value::Int, INT),
        [Value::Uint(one), Value::Uint(other)] => {
            checked(one.checked_rem(*other), Value::Uint, UINT)
        }
        _ => no_overload(),
    }
}

fn negate<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(value)] => checked(value.checked_neg(), Value::Int, INT),
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => no_overload(),
    }
}

fn equality<'a>(args: &[Value<'a>], wanted: bool) -> Evaluated<'a> {
    match args {
        [one, other] => Ok(Value::Bool(equal(one, other)? == wanted)),
        _ => no_overload(),
    }
}

fn order<'a>(args: &[Value<'a>], test: impl Fn(Ordering) -> bool) -> Evaluated<'a> {
    let [one, other] = args else { return no_overload() };
    match compare(one, other) {
        Some(found) => Ok(Value::Bool(test(found))),
        // NaN is neither less nor greater.
        None if matches!((one, other), (Value::Double(_), _) | (_, Value::Double(_))) => {
            let number = |value: &Value<'_>| {
                matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_))
            };
            if number(one) && number(other) { Ok(Value::Bool(false)) } else { no_overload() }
        }
        None => no_overload(),
    }
}

fn contains<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key).is_some())),
        [item, Value::List(list)] => {
            for index in 0..list.len() {
                if let Some(own) = list.get(index)
                    && equal(item, &own?)?
                {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        _ => no_overload(),
    }
}

fn size<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

fn conversion<'a>(value: &Value<'a>, to: &str) -> Evaluated<'a> {
    fail(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

fn to_bool<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [value @ Value::Bool(_)] => Ok(value.clone()),
        [Value::String(text)] => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => fail(format!(
                "strconv.ParseBool: parsing {}: invalid syntax",
                crate::field::quote(other)
            )),
        },
        [value] => conversion(value, "bool"),
        _ => no_overload(),
    }
}

fn to_bytes<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [value @ Value::Bytes(_)] => Ok(value.clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_str().as_bytes().into())),
        [value] => conversion(value, "bytes"),
        _ => no_overload(),
    }
}

fn to_double<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [value @ Value::Double(_)] => Ok(value.clone()),
        #[allow(clippy::cast_precision_loss, reason = "so is the conversion defined")]
        [Value::Int(value)] => Ok(Value::Double(*value as f64)),
        #[allow(clippy::cast_precision_loss, reason = "so is the conversion defined")]
        [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
        [Value::String(text)] => text.as_str().parse().map(Value::Double).or_else(|_| {
            let shown = crate::field::quote(text.as_str());
            fail(format!("strconv.ParseFloat: parsing {shown}: invalid syntax"))
        }),
        [value] => conversion(value, "double"),
        _ => no_overload(),
    }
}

fn go_parse<T: std::str::FromStr<Err = std::num::ParseIntError>>(
    text: &str,
    function: &str,
) -> Result<T, EvalError> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse::<T>().map_err(|error| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        let shown = crate::field::quote(text);
        EvalError::Failed(format!("strconv.{function}: parsing {shown}: {why}"))
    })
}

fn to_int<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [value @ Value::Int(_)] => Ok(value.clone()),
        [Value::Uint(value)] => checked(i64::try_from(*value).ok(), Value::Int, INT),
        [Value::Double(value)] => {
            let inside = *value > -value::INT_END && *value < value::INT_END;
            #[allow(clippy::cast_possible_truncation, reason = "bounded; cut towards zero")]
            checked(inside.then_some(*value as i64), Value::Int, INT)
        }
        [Value::String(text)] => go_parse(text.as_str(), "ParseInt").map(Value::Int),
        [Value::Timestamp(at)] => Ok(Value::Int(at.as_second())),
        [Value::Duration(nanos)] => Ok(Value::Int(*nanos)),
        [value] => conversion(value, "int"),
        _ => no_overload(),
    }
}

fn to_uint<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [value @ Value::Uint(_)] => Ok(value.clone()),
        [Value::Int(value)] => checked(u64::try_from(*value).ok(), Value::Uint, UINT),
        [Value::Double(value)] => {
            let inside = *value >= 0.0 && *value < 18_446_744_073_709_551_616.0;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounded; cut towards zero"
            )]
            checked(inside.then_some(*value as u64), Value::Uint, UINT)
        }
        [Value::String(text)] => go_parse(text.as_str(), "ParseUint").map(Value::Uint),
        [value] => conversion(value, "uint"),
        _ => no_overload(),
    }
}

fn to_string<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [value] = args else { return no_overload() };
    Ok(Value::text(match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return fail("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Double(value) => value::double_text(*value),
        Value::Duration(nanos) => value::duration_text(*nanos),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Timestamp(at) => value::timestamp_text(*at),
        Value::Opaque(super::Opaque::Ip(address)) => address.to_string(),
        Value::Opaque(super::Opaque::Cidr(cidr)) => cidr.to_string(),
        other => return conversion(other, "string"),
    }))
}
