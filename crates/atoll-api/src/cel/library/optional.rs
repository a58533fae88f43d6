//! Optional values.

use std::rc::Rc;

use super::{Function, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::{List, Value};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

pub(super) const FUNCTIONS: &[Function] = &[
    function("optional.of", &["(T) optional<T>"], |args, _| match args {
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }),
    function("optional.ofNonZeroValue", &["(T) optional<T>"], |args, _| match args {
        [value] if is_zero(value) => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }),
    function("optional.none", &["() optional<T>"], |_, _| Ok(Value::Optional(None))),
    function("optional.unwrap", &["(list<optional<T>>) list<T>"], |args, _| unwrap(args)),
    function("unwrapOpt", &["list<optional<T>>.() list<T>"], |args, _| unwrap(args)),
    function("hasValue", &["optional<T>.() bool"], |args, _| match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    }),
    function("value", &["optional<T>.() T"], |args, _| match args {
        [Value::Optional(Some(value))] => Ok(value.as_ref().clone()),
        [Value::Optional(None)] => fail("optional.none() dereference"),
        _ => no_overload(),
    }),
    function("or", &["optional<T>.(optional<T>) optional<T>"], |args, _| match args {
        [Value::Optional(None), other @ Value::Optional(_)] => Ok(other.clone()),
        [value @ Value::Optional(_), Value::Optional(_)] => Ok(value.clone()),
        _ => no_overload(),
    }),
    function("orValue", &["optional<T>.(T) T"], |args, _| match args {
        [Value::Optional(Some(value)), _] => Ok(Rc::as_ref(value).clone()),
        [Value::Optional(None), other] => Ok(other.clone()),
        _ => no_overload(),
    }),
];

fn unwrap<'a>(args: &[Value<'a>]) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut values = Vec::new();
    for item in list.to_vec()? {
        match item {
            Value::Optional(Some(value)) => values.push(value.as_ref().clone()),
            Value::Optional(None) => {}
            _ => return no_overload(),
        }
    }
    Ok(Value::list(values))
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.as_str().is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Duration(nanos) => *nanos == 0,
        Value::List(list) => List::is_empty(list),
        Value::Map(map) => map.is_empty(),
        Value::Object(json, _) => json.is_empty(),
        Value::Struct(made) => made.fields.is_empty(),
        _ => false,
    }
}
