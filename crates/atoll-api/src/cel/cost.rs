//! What calls cost while they run: upstream's numbers, which policies are written against.

use super::library::{self, FunctionId, Opaque};
use super::value::Value;

/// A variable, a field, an item.
pub(super) const NAME: u64 = 1;
pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;
pub(super) const STRUCT: u64 = 40;
/// One authorization check; an expression has room for two.
pub(super) const CHECK: u64 = 350_000;

/// A tenth for each character, rounded up.
pub(super) fn traversal(size: u64) -> u64 {
    size.div_ceil(10)
}

/// A regular expression is taken to have a step for every four characters.
pub(super) fn regex(text: u64, pattern: u64) -> u64 {
    traversal(text.saturating_add(1)).saturating_mul(pattern.div_ceil(4))
}

fn size(args: &[Value<'_>], index: usize) -> u64 {
    args.get(index).map_or(0, Value::size)
}

/// What follows from the arguments.
pub(super) fn before(id: FunctionId, args: &[Value<'_>]) -> u64 {
    let (one, two) = (size(args, 0), size(args, 1));
    match library::name(id) {
        "check" => CHECK,
        "fieldSelector" | "labelSelector" => selector(two),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => items(args.first()),
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => traversal(one),
        "startsWith" | "endsWith" => traversal(two),
        "bytes" | "strings.quote" | "format" => traversal(one),
        "string" if matches!(args.first(), Some(Value::Bytes(_))) => traversal(one),
        "replace" | "split" | "ip.isCanonical" => traversal(one.saturating_mul(2)),
        "find" | "findAll" | "matches" => regex(one, two),
        "contains" => traversal(one).saturating_mul(traversal(two)),
        "ip" => match args.first() {
            Some(Value::Opaque(_)) => 1,
            _ => traversal(one),
        },
        "containsIP" => {
            let parse =
                if matches!(args.get(1), Some(Value::String(_))) { traversal(two) } else { 0 };
            traversal(one.saturating_mul(2)) + parse
        }
        "containsCIDR" => {
            let parse =
                if matches!(args.get(1), Some(Value::String(_))) { traversal(two) } else { 0 };
            traversal(one.saturating_mul(2)) + traversal(one) + 1 + parse
        }
        "validate" => match args.first() {
            Some(Value::Opaque(Opaque::Format(format))) => regex(two, format.pattern_size),
            _ => 1,
        },
        "@in" => match args.get(1) {
            Some(Value::List(_)) => two,
            _ => 1,
        },
        "_==_" | "_!=_" => match args.first() {
            Some(Value::Opaque(_)) => 1,
            _ => traversal(one.min(two)),
        },
        "_<_" | "_<=_" | "_>_" | "_>=_" => match args.first() {
            Some(Value::String(_) | Value::Bytes(_)) => traversal(one.min(two)),
            _ => 1,
        },
        "_+_" => match args.first() {
            Some(Value::String(_) | Value::Bytes(_)) => traversal(one.saturating_add(two)),
            _ => 1,
        },
        "sets.contains" | "sets.intersects" => 1 + one.saturating_mul(two),
        "sets.equivalent" => 1 + one.saturating_mul(two).saturating_mul(2),
        "distinct" | "sort" => 11 + one.saturating_mul(one).saturating_mul(2),
        "@sortByAssociatedKeys" => 11 + two.saturating_mul(two).saturating_mul(2),
        "lists.range" => match args.first() {
            Some(Value::Int(count)) => 11 + u64::try_from(*count).unwrap_or(0),
            _ => 1,
        },
        "join" => 0,
        _ => 1,
    }
}

/// What follows from the result.
pub(super) fn after(id: FunctionId, _: &[Value<'_>], result: &Value<'_>) -> u64 {
    match library::name(id) {
        "join" => traversal(result.size().saturating_mul(2)),
        "slice" | "flatten" | "reverse" => 10 + result.size(),
        _ => 0,
    }
}

/// Lists whose items are texts cost by their texts.
fn items(value: Option<&Value<'_>>) -> u64 {
    match value {
        Some(Value::List(list)) => {
            let mut cost: u64 = 0;
            for index in 0..list.len() {
                let size = match list.get(index) {
                    Some(Ok(item @ (Value::String(_) | Value::Bytes(_)))) => traversal(item.size()),
                    _ => 1,
                };
                cost = cost.saturating_add(size);
            }
            cost
        }
        Some(value @ (Value::String(_) | Value::Bytes(_))) => traversal(value.size()),
        _ => 1,
    }
}

/// A selector is parsed into requirements, one for every two characters at most.
pub(super) fn selector(length: u64) -> u64 {
    LIST + traversal(length) + length.div_ceil(2).saturating_mul(LIST + STRUCT)
}
