//! What evaluations cost: upstream's numbers.

use serde_json::{Value as Json, json};

use super::{Bindings, Env, PER_CALL_COST_MAX, Type, Value};

fn cost_of(source: &str, object: &Json) -> u64 {
    let env = Env::new().variable("input", Type::Dyn).variable("other", Type::Dyn);
    let program = env.compile(source).unwrap();
    let mut bindings = Bindings::default();
    bindings.set("input", Value::of_json(object));
    bindings.set("other", Value::of_json(object));
    program.evaluate(&bindings, PER_CALL_COST_MAX).cost
}

#[test]
fn costs_are_those_of_cel_go() {
    for (source, expected) in [
        ("'Hello'", 0),
        ("[1, 2, 3]", 10),
        ("{'a': 1, 'b': 2}", 30),
        ("[1, 2, 3].all(x, true)", 20),
        ("'123'.matches('[0-9]')", 2),
        ("false || false", 0),
        ("true ? false : 1 > 3", 0),
        ("false ? false : 1 > 3", 1),
        ("1 < 2", 1),
        ("2 in [1, 2, 3]", 13),
        ("size('123')", 1),
        ("'12345678901234567890' == '123456789012345678901234567890'", 2),
        ("(1 > 2 ? 5 : 3) > 1", 2),
        ("(1 > 2 || 2 > 1) == true", 3),
        ("[{'k1': 1}, {'k2': 2}].all(x, true)", 77),
        ("[1,2,3,4,5].filter(x, x % 2 == 0)", 62),
        ("[1,2,3,4,5].map(x, x)", 86),
        ("[1,2,3,4,5].map(x, x).filter(x, x % 2 == 0)", 138),
        ("[1,2,3,4,5].map(x, x).exists(x, x == 5) == true", 118),
        ("[1,2,3,4,5].map(x, x).map(x, x)", 162),
        ("[1,2,3,4,5].map(x, [x, x]).all(y, y.all(y, y == 1))", 171),
        ("[1,2,3,4,5].map(x, x).map(x, x) + [1]", 173),
        ("[1,2,3].all(i, i in [1,2,3].map(j, j + j))", 86),
    ] {
        assert_eq!(cost_of(source, &json!(null)), expected, "{source}");
    }
}

#[test]
fn reading_objects_costs_by_the_step() {
    let object = json!({"a": {"b": [1, 2]}, "k": "a"});
    for (source, expected) in [
        ("input", 1),
        ("input.a", 2),
        ("input['a']", 2),
        ("input.a.b[0]", 4),
        ("input['a' + '']", 3),
        ("has(input.a)", 1),
        ("has(input.a.b)", 2),
        ("input[input.k]", 3),
        ("input.a.b == other.a.b", 7),
    ] {
        assert_eq!(cost_of(source, &object), expected, "{source}");
    }
}

#[test]
fn what_costs_too_much_is_broken_off() {
    let items: Vec<i64> = (0..2000).collect();
    let object = json!(items);
    let env = Env::new().variable("input", Type::Dyn);
    for source in [
        "input.all(x, input.all(y, x + y >= 0))",
        "true || input.all(x, input.all(y, x + y >= 0))",
        "input.all(x, input.all(y, x + y >= 0)) || true",
        "cel.bind(a, input + input, cel.bind(b, a + a + a + a, cel.bind(c, b + b + b + b, cel.bind(d, \
         c + c + c + c, cel.bind(e, d + d + d + d, cel.bind(f, e + e + e + e, size(f + f)))))))",
    ] {
        let program = env.compile(source).unwrap();
        let mut bindings = Bindings::default();
        bindings.set("input", Value::of_json(&object));
        let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
        if source.starts_with("true") {
            assert_eq!(done.result.unwrap().as_bool(), Some(true));
            continue;
        }
        let error = done.result.unwrap_err().to_string();
        assert_eq!(error, "operation cancelled: actual cost limit exceeded", "{source}");
    }
    // A fold that collects is linear: two thousand items do not cost two thousand copies.
    let program = env.compile("size(input.map(x, x + 1).filter(x, x > 0))").unwrap();
    let mut bindings = Bindings::default();
    bindings.set("input", Value::of_json(&object));
    let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
    assert_eq!(done.result.unwrap().to_json().unwrap(), json!(2000));
}
