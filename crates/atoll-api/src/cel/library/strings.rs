//! The strings extension. Positions count characters.

use super::{Context, Function, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::Value;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

pub(super) const FUNCTIONS: &[Function] = &[
    function("contains", &["string.(string) bool"], |args, _| {
        test(args, |text, other| text.contains(other))
    }),
    function("startsWith", &["string.(string) bool"], |args, _| {
        test(args, |text, other| text.starts_with(other))
    }),
    function("endsWith", &["string.(string) bool"], |args, _| {
        test(args, |text, other| text.ends_with(other))
    }),
    function("charAt", &["string.(int) string"], char_at),
    function("lowerAscii", &["string.() string"], |args, _| {
        map(args, |one| one.to_ascii_lowercase())
    }),
    function("upperAscii", &["string.() string"], |args, _| {
        map(args, |one| one.to_ascii_uppercase())
    }),
    function("trim", &["string.() string"], |args, _| map(args, |one| one.trim().to_owned())),
    function(
        "replace",
        &["string.(string, string) string", "string.(string, string, int) string"],
        replace,
    ),
    function(
        "split",
        &["string.(string) list<string>", "string.(string, int) list<string>"],
        split,
    ),
    function("substring", &["string.(int) string", "string.(int, int) string"], substring),
    function("join", &["list<string>.() string", "list<string>.(string) string"], join),
    function("strings.quote", &["(string) string"], |args, _| map(args, quote)),
    function("jsonpatch.escapeKey", &["(string) string"], |args, _| {
        map(args, |one| one.replace('~', "~0").replace('/', "~1"))
    }),
];

fn test<'a>(args: &[Value<'a>], holds: impl Fn(&str, &str) -> bool) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(other)] => {
            Ok(Value::Bool(holds(text.as_str(), other.as_str())))
        }
        _ => no_overload(),
    }
}

fn map<'a>(args: &[Value<'a>], made: impl Fn(&str) -> String) -> Evaluated<'a> {
    match args {
        [Value::String(text)] => Ok(Value::text(made(text.as_str()))),
        _ => no_overload(),
    }
}

/// The byte at which a character begins; the end counts as one.
fn byte_of(text: &str, position: i64) -> Option<usize> {
    let position = usize::try_from(position).ok()?;
    text.char_indices().map(|(at, _)| at).chain(std::iter::once(text.len())).nth(position)
}

fn position_of(text: &str, byte: usize) -> i64 {
    let count = text.get(..byte).map_or(0, |before| before.chars().count());
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn out_of_range<T>(position: i64) -> Result<T, EvalError> {
    fail(format!("index out of range: {position}"))
}

fn char_at<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let [Value::String(text), Value::Int(position)] = args else { return no_overload() };
    match byte_of(text.as_str(), *position) {
        Some(at) => {
            let found = text.as_str().get(at..).and_then(|rest| rest.chars().next());
            Ok(Value::text(found.map(String::from).unwrap_or_default()))
        }
        None => out_of_range(*position),
    }
}

/// `indexOf` and `lastIndexOf` of strings.
pub(super) fn index_of<'a>(text: &str, wanted: &str, from: Option<i64>) -> Evaluated<'a> {
    let from = from.unwrap_or(0);
    let Some(start) = byte_of(text, from) else { return out_of_range(from) };
    let found = text.get(start..).and_then(|rest| rest.find(wanted));
    Ok(Value::Int(found.map_or(-1, |at| position_of(text, start + at))))
}

/// `from` is the last position at which it may begin.
pub(super) fn last_index_of<'a>(text: &str, wanted: &str, from: Option<i64>) -> Evaluated<'a> {
    let Some(last) = from else {
        return Ok(Value::Int(text.rfind(wanted).map_or(-1, |at| position_of(text, at))));
    };
    let Some(start) = byte_of(text, last) else { return out_of_range(last) };
    let mut end = (start + wanted.len()).min(text.len());
    // Where it falls into a character, nothing that begins at the last position ends there.
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let found = text.get(..end).and_then(|head| head.rfind(wanted)).filter(|at| *at <= start);
    Ok(Value::Int(found.map_or(-1, |at| position_of(text, at))))
}

fn replace<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(old), Value::String(new)] => {
            Ok(Value::text(text.as_str().replace(old.as_str(), new.as_str())))
        }
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(times)] => {
            Ok(match usize::try_from(*times) {
                Ok(times) => Value::text(text.as_str().replacen(old.as_str(), new.as_str(), times)),
                Err(_) => Value::text(text.as_str().replace(old.as_str(), new.as_str())),
            })
        }
        _ => no_overload(),
    }
}

fn split<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let (text, by, limit) = match args {
        [Value::String(text), Value::String(by)] => (text, by, -1),
        [Value::String(text), Value::String(by), Value::Int(limit)] => (text, by, *limit),
        _ => return no_overload(),
    };
    let (text, by) = (text.as_str(), by.as_str());
    let limit = usize::try_from(limit).ok();
    if limit == Some(0) {
        return Ok(Value::list(Vec::new()));
    }
    let parts: Vec<Value<'a>> = if by.is_empty() {
        characters(text, limit).into_iter().map(Value::text).collect()
    } else {
        match limit {
            Some(limit) => text.splitn(limit, by).map(Value::text).collect(),
            None => text.split(by).map(Value::text).collect(),
        }
    };
    Ok(Value::list(parts))
}

/// One part for each character; the last takes what is left.
fn characters(text: &str, limit: Option<usize>) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(one) = rest.chars().next() {
        if limit == Some(parts.len() + 1) {
            parts.push(rest.to_owned());
            break;
        }
        parts.push(one.to_string());
        rest = rest.get(one.len_utf8()..).unwrap_or("");
    }
    parts
}

fn substring<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let (text, from, to) = match args {
        [Value::String(text), Value::Int(from)] => (text.as_str(), *from, None),
        [Value::String(text), Value::Int(from), Value::Int(to)] => {
            (text.as_str(), *from, Some(*to))
        }
        _ => return no_overload(),
    };
    if let Some(to) = to
        && from > to
    {
        return fail(format!("invalid substring range. start: {from}, end: {to}"));
    }
    let Some(start) = byte_of(text, from) else { return out_of_range(from) };
    let end = match to {
        Some(to) => match byte_of(text, to) {
            Some(end) => end,
            None => return out_of_range(to),
        },
        None => text.len(),
    };
    Ok(Value::text(text.get(start..end).unwrap_or("")))
}

fn join<'a>(args: &[Value<'a>], _: &Context) -> Evaluated<'a> {
    let (list, by) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(by)] => (list, by.as_str()),
        _ => return no_overload(),
    };
    let mut joined = String::new();
    for index in 0..list.len() {
        if index > 0 {
            joined.push_str(by);
        }
        match list.get(index) {
            Some(Ok(Value::String(text))) => joined.push_str(text.as_str()),
            Some(Err(error)) => return Err(error),
            _ => return no_overload(),
        }
    }
    Ok(Value::text(joined))
}

/// As it could stand in an expression.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for one in text.chars() {
        match one {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
