//! Regular expressions, in RE2's syntax.

use super::{Context, Function, function, no_overload};
use crate::cel::error::EvalError;
use crate::cel::value::Value;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

pub(super) const FUNCTIONS: &[Function] = &[
    function("matches", &["string.(string) bool", "(string, string) bool"], matches),
    function("find", &["string.(string) string"], find),
    function(
        "findAll",
        &["string.(string) list<string>", "string.(string, int) list<string>"],
        find_all,
    ),
];

fn matches<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    match args {
        [Value::String(text), Value::String(pattern)] => {
            Ok(Value::Bool(context.regex(pattern.as_str())?.is_match(text.as_str())))
        }
        _ => no_overload(),
    }
}

fn find<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    let [Value::String(text), Value::String(pattern)] = args else { return no_overload() };
    let regex = context.regex(pattern.as_str())?;
    Ok(Value::text(regex.find(text.as_str()).map_or("", |found| found.as_str())))
}

fn find_all<'a>(args: &[Value<'a>], context: &Context) -> Evaluated<'a> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let regex = context.regex(pattern.as_str())?;
    let found = regex.find_iter(text.as_str()).take(limit);
    Ok(Value::list(found.map(|one| Value::text(one.as_str())).collect()))
}
