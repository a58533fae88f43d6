//! What expressions give, cost, and how they are refused.

mod conformance;
mod costs;
mod errors;
mod libraries;
mod properties;

use serde_json::{Value as Json, json};

use super::{Bindings, Env, EvalError, PER_CALL_COST_MAX, Type, Value};

/// The value of an expression over `object`, as JSON.
fn eval_with(source: &str, object: &Json) -> Result<Json, String> {
    let env = Env::new().variable("object", Type::Dyn);
    let program = env.compile(source).map_err(|error| error.to_string())?;
    let mut bindings = Bindings::default();
    bindings.set("object", Value::of_json(object));
    let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
    let value = done.result.map_err(|error| error.to_string())?;
    match &value {
        Value::Optional(None) => Ok(json!("<none>")),
        Value::Type(name) => Ok(json!(format!("<{name}>"))),
        Value::Uint(value) => Ok(json!(format!("{value}u"))),
        Value::Double(value) => Ok(json!(format!("{value:?}d"))),
        other => other.to_json().map_err(|error: EvalError| error.to_string()),
    }
}

fn eval(source: &str) -> Result<Json, String> {
    eval_with(source, &json!({}))
}

fn check_all(table: &[(&str, Json)]) {
    for (source, expected) in table {
        assert_eq!(eval(source).as_ref(), Ok(expected), "{source}");
    }
}

fn check_errors(table: &[(&str, &str)]) {
    for (source, expected) in table {
        assert_eq!(eval(source).as_ref().map_err(String::as_str), Err(*expected), "{source}");
    }
}
