//! Lists: Kubernetes' own library, the extension of cel-go, and sets.

use std::cmp::Ordering;

use super::strings::{index_of, last_index_of};
use super::{Context, Function, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::{List, Value, compare, equal};

type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Items that `lists.range` makes at most.
const RANGE_MAX: i64 = 1_000_000;

/// One signature for each type that has an order.
macro_rules! ordered {
    ($before:literal, $after:literal) => {
        &[
            concat!("list<int>", $before, "int", $after),
            concat!("list<uint>", $before, "uint", $after),
            concat!("list<double>", $before, "double", $after),
            concat!("list<bool>", $before, "bool", $after),
            concat!("list<duration>", $before, "duration", $after),
            concat!("list<timestamp>", $before, "timestamp", $after),
            concat!("list<string>", $before, "string", $after),
            concat!("list<bytes>", $before, "bytes", $after),
        ]
    };
}

const INDEXES: &[&str] = &["list<T>.(T) int", "string.(string) int", "string.(string, int) int"];
const IS_SORTED: &[&str] = &[
    "list<int>.() bool",
    "list<uint>.() bool",
    "list<double>.() bool",
    "list<bool>.() bool",
    "list<duration>.() bool",
    "list<timestamp>.() bool",
    "list<string>.() bool",
    "list<bytes>.() bool",
];
const BY_KEYS: &[&str] = &[
    "list<T>.(list<int>) list<T>",
    "list<T>.(list<uint>) list<T>",
    "list<T>.(list<double>) list<T>",
    "list<T>.(list<bool>) list<T>",
    "list<T>.(list<duration>) list<T>",
    "list<T>.(list<timestamp>) list<T>",
    "list<T>.(list<string>) list<T>",
    "list<T>.(list<bytes>) list<T>",
];

pub(super) const FUNCTIONS: &[Function] = &[
    function("isSorted", IS_SORTED, is_sorted),
    function(
        "sum",
        &[
            "list<int>.() int",
            "list<uint>.() uint",
            "list<double>.() double",
            "list<duration>.() duration",
        ],
        sum,
    ),
    function("min", ordered!(".() ", ""), |args, _| extreme(args, "min", Ordering::Less)),
    function("max", ordered!(".() ", ""), |args, _| extreme(args, "max", Ordering::Greater)),
    function("indexOf", INDEXES, |args, _| position(args, false)),
    function("lastIndexOf", INDEXES, |args, _| position(args, true)),
    function("slice", &["list<T>.(int, int) list<T>"], slice),
    function("flatten", &["list<list<T>>.() list<T>", "list<dyn>.(int) list<dyn>"], flatten),
    function("lists.range", &["(int) list<int>"], range),
    function("distinct", &["list<T>.() list<T>"], distinct),
    function("reverse", &["list<T>.() list<T>"], |args, _| match args {
        [Value::List(list)] => {
            let mut items = list.to_vec()?;
            items.reverse();
            Ok(Value::list(items))
        }
        _ => no_overload(),
    }),
    function("first", &["list<T>.() optional<T>"], |args, _| match args {
        [Value::List(list)] => item(list, 0),
        _ => no_overload(),
    }),
    function("last", &["list<T>.() optional<T>"], |args, _| match args {
        [Value::List(list)] => item(list, list.len().wrapping_sub(1)),
        _ => no_overload(),
    }),
    function("sort", SORT, |args, _| match args {
        [list @ Value::List(_)] => sort(list, list),
        _ => no_overload(),
    }),
    function("@sortByAssociatedKeys", BY_KEYS, |args, _| match args {
        [list, keys] => sort(list, keys),
        _ => no_overload(),
    }),
    function("sets.contains", &["(list<T>, list<T>) bool"], |args, _| match args {
        [Value::List(list), Value::List(other)] => Ok(Value::Bool(covers(list, other)?)),
        _ => no_overload(),
    }),
    function("sets.equivalent", &["(list<T>, list<T>) bool"], |args, _| match args {
        [Value::List(list), Value::List(other)] => {
            Ok(Value::Bool(covers(list, other)? && covers(other, list)?))
        }
        _ => no_overload(),
    }),
    function("sets.intersects", &["(list<T>, list<T>) bool"], intersects),
];

const SORT: &[&str] = &[
    "list<int>.() list<int>",
    "list<uint>.() list<uint>",
    "list<double>.() list<double>",
    "list<bool>.() list<bool>",
    "list<duration>.() list<duration>",
    "list<timestamp>.() list<timestamp>",
    "list<string>.() list<string>",
    "list<bytes>.() list<bytes>",
];

fn item<'a>(list: &List<'a>, index: usize) -> Evaluated<'a> {
    match list.get(index) {
        Some(found) => Ok(Value::some(found?)),
        None => Ok(Value::Optional(None)),
    }
}

fn is_sorted<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let items = list.to_vec()?;
    for pair in items.windows(2) {
        let [one, other] = pair else { continue };
        match compare(one, other) {
            Some(Ordering::Greater) => return Ok(Value::Bool(false)),
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut items = list.to_vec()?.into_iter();
    // Upstream's sum of nothing is an integer, or as the list is declared.
    let Some(mut total) = items.next() else { return Ok(Value::Int(0)) };
    for item in items {
        total = super::call(super::ADD, &[total, item], context)?;
    }
    Ok(total)
}

fn extreme<'a>(args: &[Value<'a>], name: &str, wanted: Ordering) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut items = list.to_vec()?.into_iter();
    let Some(mut found) = items.next() else { return fail(format!("{name} called on empty list")) };
    for item in items {
        match compare(&item, &found) {
            Some(order) if order == wanted => found = item,
            Some(_) => {}
            None => return no_overload(),
        }
    }
    Ok(found)
}

fn position<'a>(args: &[Value<'a>], last: bool) -> Evaluated<'a> {
    let (list, wanted) = match args {
        [Value::List(list), wanted] => (list, wanted),
        [Value::String(text), Value::String(wanted), rest @ ..] => {
            let from = match rest {
                [] => None,
                [Value::Int(from)] => Some(*from),
                _ => return no_overload(),
            };
            let (text, wanted) = (text.as_str(), wanted.as_str());
            return if last {
                last_index_of(text, wanted, from)
            } else {
                index_of(text, wanted, from)
            };
        }
        _ => return no_overload(),
    };
    let mut found = -1;
    for index in 0..list.len() {
        let Some(own) = list.get(index) else { continue };
        if equal(&own?, wanted)? {
            found = i64::try_from(index).unwrap_or(i64::MAX);
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn slice<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::List(list), Value::Int(from), Value::Int(to)] = args else { return no_overload() };
    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
    if *from < 0 || *to < 0 {
        return fail(format!("cannot slice({from}, {to}), negative indexes not supported"));
    }
    if from > to {
        return fail(format!(
            "cannot slice({from}, {to}), start index must be less than or equal to end index"
        ));
    }
    if *to > length {
        return fail(format!("cannot slice({from}, {to}), list is length {length}"));
    }
    let (from, to) = (usize::try_from(*from).unwrap_or(0), usize::try_from(*to).unwrap_or(0));
    let items: Result<Vec<Value<'a>>, EvalError> =
        (from..to).filter_map(|index| list.get(index)).collect();
    items.map(Value::list)
}

fn flatten<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return no_overload(),
    };
    if depth < 0 {
        return fail("level must be non-negative");
    }
    let mut out = Vec::new();
    flatten_into(list, depth, &mut out, context)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(
    list: &List<'a>,
    depth: i64,
    out: &mut Vec<Value<'a>>,
    context: &Context,
) -> Result<(), EvalError> {
    context.copy(list.len())?;
    for item in list.to_vec()? {
        match item {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out, context)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn range<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::Int(count)] if *count > RANGE_MAX => {
            fail(format!("lists.range({count}) has more than {RANGE_MAX} items"))
        }
        [Value::Int(count)] => Ok(Value::list((0..*count).map(Value::Int).collect())),
        _ => no_overload(),
    }
}

fn distinct<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut found: Vec<Value<'a>> = Vec::new();
    for item in list.to_vec()? {
        let mut known = false;
        for own in &found {
            if equal(own, &item)? {
                known = true;
                break;
            }
        }
        if !known {
            found.push(item);
        }
    }
    Ok(Value::list(found))
}

fn sort<'a>(list: &Value<'a>, keys: &Value<'a>) -> Evaluated<'a> {
    let (Value::List(list), Value::List(keys)) = (list, keys) else { return no_overload() };
    let mut items: Vec<(Value<'a>, Value<'a>)> =
        keys.to_vec()?.into_iter().zip(list.to_vec()?).collect();
    for pair in items.windows(2) {
        let [one, other] = pair else { continue };
        if one.0.type_name() != other.0.type_name() {
            return fail("list elements must have the same type");
        }
        if compare(&one.0, &other.0).is_none() && !matches!(one.0, Value::Double(_)) {
            return fail("list elements must be comparable");
        }
    }
    items.sort_by(|one, other| compare(&one.0, &other.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(items.into_iter().map(|(_, item)| item).collect()))
}

fn holds(list: &List<'_>, item: &Value<'_>) -> Result<bool, EvalError> {
    for index in 0..list.len() {
        if let Some(own) = list.get(index)
            && equal(&own?, item)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether all of `other` is in `list`.
fn covers(list: &List<'_>, other: &List<'_>) -> Result<bool, EvalError> {
    for item in other.to_vec()? {
        if !holds(list, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::List(list), Value::List(other)] = args else { return no_overload() };
    for item in other.to_vec()? {
        if holds(list, &item)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
