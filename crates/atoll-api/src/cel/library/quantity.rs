//! Quantities, and the comparisons that they share with versions.

use std::cmp::Ordering;

use super::{Function, Opaque, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::Value;
use crate::quantity::Quantity;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const NANOS: i128 = 1_000_000_000;
const COMPARED: &[&str] = &[
    "kubernetes.Quantity.(kubernetes.Quantity) bool",
    "kubernetes.Semver.(kubernetes.Semver) bool",
];
const SUM: &[&str] = &[
    "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity",
    "kubernetes.Quantity.(int) kubernetes.Quantity",
];

pub(super) const FUNCTIONS: &[Function] = &[
    function("quantity", &["(string) kubernetes.Quantity"], |args, _| match args {
        [Value::String(text)] => match Quantity::parse(text.as_str()) {
            Ok(quantity) => Ok(made(quantity)),
            Err(error) => fail(error.to_string()),
        },
        _ => no_overload(),
    }),
    function("isQuantity", &["(string) bool"], |args, _| match args {
        [Value::String(text)] => Ok(Value::Bool(Quantity::parse(text.as_str()).is_ok())),
        _ => no_overload(),
    }),
    function("sign", &["(kubernetes.Quantity) int", "kubernetes.Quantity.() int"], |args, _| {
        match args {
            [Value::Opaque(Opaque::Quantity(one))] => {
                Ok(Value::Int(i64::try_from(one.nanos().signum()).unwrap_or(0)))
            }
            _ => no_overload(),
        }
    }),
    function("isInteger", &["kubernetes.Quantity.() bool"], |args, _| match args {
        [Value::Opaque(Opaque::Quantity(one))] => Ok(Value::Bool(whole(one).is_some())),
        _ => no_overload(),
    }),
    function("asInteger", &["kubernetes.Quantity.() int"], |args, _| match args {
        [Value::Opaque(Opaque::Quantity(one))] => match whole(one) {
            Some(value) => Ok(Value::Int(value)),
            None => fail("cannot convert value to integer"),
        },
        _ => no_overload(),
    }),
    function("asApproximateFloat", &["kubernetes.Quantity.() double"], |args, _| match args {
        #[allow(clippy::cast_precision_loss, reason = "approximate, as its name says")]
        [Value::Opaque(Opaque::Quantity(one))] => Ok(Value::Double(one.nanos() as f64 / 1e9)),
        _ => no_overload(),
    }),
    function("isGreaterThan", COMPARED, |args, _| compared(args, Ordering::Greater)),
    function("isLessThan", COMPARED, |args, _| compared(args, Ordering::Less)),
    function(
        "compareTo",
        &[
            "kubernetes.Quantity.(kubernetes.Quantity) int",
            "kubernetes.Semver.(kubernetes.Semver) int",
        ],
        |args, _| Ok(Value::Int(order(args)? as i64)),
    ),
    function("add", SUM, |args, _| sum(args, false)),
    function("sub", SUM, |args, _| sum(args, true)),
];

fn made<'a>(quantity: Quantity) -> Value<'a> {
    Value::Opaque(Opaque::Quantity(quantity))
}

fn whole(quantity: &Quantity) -> Option<i64> {
    (quantity.nanos() % NANOS == 0).then(|| i64::try_from(quantity.nanos() / NANOS).ok())?
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Opaque(Opaque::Quantity(one)), Value::Opaque(Opaque::Quantity(other))] => {
            Ok(one.nanos().cmp(&other.nanos()))
        }
        [Value::Opaque(Opaque::Semver(one)), Value::Opaque(Opaque::Semver(other))] => {
            Ok(one.precedence(other))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn compared<'a>(args: &[Value<'a>], wanted: Ordering) -> Evaluated<'a> {
    Ok(Value::Bool(order(args)? == wanted))
}

fn sum<'a>(args: &[Value<'a>], negative: bool) -> Evaluated<'a> {
    let (one, other) = match args {
        [Value::Opaque(Opaque::Quantity(one)), Value::Opaque(Opaque::Quantity(other))] => {
            (*one, *other)
        }
        [Value::Opaque(Opaque::Quantity(one)), Value::Int(other)] => {
            (*one, Quantity::new(*other, one.format()))
        }
        _ => return no_overload(),
    };
    Ok(made(if negative { one - other } else { one + other }))
}
