//! What does not compile, and how that is shown.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Env, Type, eval};
use crate::cel::{Bindings, Decl, PER_CALL_COST_MAX, Value};

fn refused(env: &Env, source: &str) -> String {
    env.compile(source).map(|_| String::new()).unwrap_or_else(|error| error.to_string())
}

#[test]
fn faults_of_types() {
    let object = Type::object("T", [("a", Type::Int), ("m", Type::map(Type::String, Type::Int))]);
    let env = Env::new().variable("self", object);
    for (source, expected) in [
        ("self.foo", "1:5: undefined field 'foo'\n | self.foo\n | ....^"),
        ("self.a.b", "1:7: type 'int' does not support field selection\n | self.a.b\n | ......^"),
        ("other", "1:1: undeclared reference to 'other' (in container '')\n | other\n | ^"),
        (
            "self.a == 'x'",
            "1:8: found no matching overload for '_==_' applied to '(int, string)'\n | self.a == 'x'\n | .......^",
        ),
        (
            "self.a.startsWith('x')",
            "1:18: found no matching overload for 'startsWith' applied to 'int.(string)'\n | self.a.startsWith('x')\n | .................^",
        ),
        ("nope(1)", "1:5: undeclared reference to 'nope' (in container '')\n | nope(1)\n | ....^"),
        (
            "self.a && true",
            "1:5: expected type 'bool' but found 'int'\n | self.a && true\n | ....^",
        ),
        ("[1, 'a']", "1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^"),
        (
            "1.all(x, x)",
            "1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.all(x, x)\n | ^",
        ),
        (
            "[1].all(x, x)",
            "1:12: expected type 'bool' but found 'int'\n | [1].all(x, x)\n | ...........^",
        ),
        (
            "'a'.matches('(')",
            "1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
        (
            "self.m.x + 'a'",
            "1:10: found no matching overload for '_+_' applied to '(int, string)'\n | self.m.x + 'a'\n | .........^",
        ),
    ] {
        let source = if source.starts_with("1.all") { "(1).all(x, x)" } else { source };
        let expected = expected
            .replace("1:1: expression", "1:2: expression")
            .replace("1.all(x, x)\n | ^", "(1).all(x, x)\n | .^");
        assert_eq!(refused(&env, source), format!("ERROR: <input>:{expected}"), "{source}");
    }
}

#[test]
fn faults_of_syntax() {
    let env = Env::new();
    for (source, expected) in [
        (
            "1 + ",
            "1:5: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 + \n | ....^",
        ),
        ("(1", "1:3: Syntax error: missing ')' at '<EOF>'\n | (1\n | ..^"),
        ("1 2", "1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^"),
        ("1 # 2", "1:3: Syntax error: token recognition error at: '#'\n | 1 # 2\n | ..^"),
        ("has(1)", "1:5: invalid argument to has() macro\n | has(1)\n | ....^"),
        (
            "[1].all(1, true)",
            "1:9: argument is not an identifier\n | [1].all(1, true)\n | ........^",
        ),
        ("namespace == 'x'", "1:1: reserved identifier: namespace\n | namespace == 'x'\n | ^"),
        ("9223372036854775808", "1:1: invalid int literal\n | 9223372036854775808\n | ^"),
    ] {
        assert_eq!(refused(&env, source), format!("ERROR: <input>:{expected}"), "{source}");
    }
}

#[test]
fn several_faults_are_shown_in_their_order() {
    let text = refused(&Env::new(), "b == 1 &&\n a");
    assert_eq!(
        text,
        "ERROR: <input>:1:1: undeclared reference to 'b' (in container '')\n | b == 1 &&\n | ^\n\
         ERROR: <input>:2:2: undeclared reference to 'a' (in container '')\n |  a\n | .^"
    );
}

#[test]
fn deep_expressions_are_refused_and_not_followed() {
    let env = Env::new();
    let nested = format!("{}1{}", "(".repeat(400), ")".repeat(400));
    assert!(refused(&env, &nested).contains("expression recursion limit exceeded"));
    let chain = vec!["1"; 5000].join(" + ");
    assert!(refused(&env, &chain).contains("expression recursion limit exceeded"));
    let fields = format!("{{}}{}", ".a".repeat(5000));
    assert!(refused(&env, &fields).contains("expression recursion limit exceeded"));
    // What is just taken runs on the stack of a thread.
    let nested = format!("{}1{}", "(".repeat(248), ")".repeat(248));
    assert_eq!(eval(&nested), Ok(json!(1)));
    let lists = format!("size({}1{})", "[".repeat(240), "]".repeat(240));
    assert_eq!(eval(&lists), Ok(json!(1)));
    let chain = vec!["1"; 290].join(" + ");
    assert_eq!(eval(&chain), Ok(json!(290)));
    let terms = vec!["true"; 5000].join(" && ");
    assert_eq!(eval(&terms), Ok(json!(true)));
    let long = "1".repeat(100_001);
    assert!(refused(&env, &long).contains("expression code point size exceeds limit"));
}

fn schema() -> Decl {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": {
                "replicas": {"type": "integer"},
                "ratio": {"type": "number"},
                "at": {"type": "string", "format": "date-time"},
                "for": {"type": "string", "format": "duration"},
                "data": {"type": "string", "format": "byte"},
                "port": {"x-kubernetes-int-or-string": true},
                "names": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 10}, "maxItems": 5},
                "pairs": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"],
                          "items": {"type": "object", "properties": {"key": {"type": "string"}, "value": {"type": "integer"}}}},
                "maybe": {"type": "string", "nullable": true},
                "a-b": {"type": "integer"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            }},
        },
    });
    Decl::of_schema(&schema, "Thing", true).unwrap()
}

#[test]
fn declared_values_have_their_types() {
    let decl = schema();
    let object = json!({"metadata": {"name": "x"}, "spec": {
        "replicas": 3, "ratio": 1, "at": "2024-01-01T00:00:00Z", "for": "1m", "data": "aGk=",
        "port": "http", "names": ["a", "b"], "maybe": null, "a-b": 7,
        "pairs": [{"key": "k", "value": 1}], "labels": {"l": "v"},
    }});
    let env = Env::new().variable("self", decl.ty());
    let run = |source: &str| {
        let program = env.compile(source).map_err(|error| error.to_string())?;
        let mut bindings = Bindings::default();
        bindings.set("self", Value::of_declared(&object, &decl).unwrap());
        let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
        done.result.map_err(|error| error.to_string())?.to_json().map_err(|error| error.to_string())
    };
    for source in [
        "self.metadata.name == 'x'",
        "self.spec.at < timestamp('2025-01-01T00:00:00Z')",
        "self.spec.__for__ == duration('60s')",
        "self.spec.data == b'hi'",
        "self.spec.ratio == 1.0",
        "self.spec.port == 'http' && type(self.spec.port) == string",
        "self.spec.names == ['b', 'a']",
        "self.spec.names + ['a', 'c'] == ['a', 'b', 'c']",
        "dyn(self.spec.maybe) == null",
        "self.spec.a__dash__b == 7",
        "self.spec.labels.all(k, self.spec.labels[k] == 'v')",
        "!has(self.spec.labels.other) && has(self.spec.replicas)",
    ] {
        assert_eq!(run(source), Ok(json!(true)), "{source}");
    }
    assert!(run("self.spec.nope").is_err_and(|text| text.contains("undefined field 'nope'")));
    assert!(run("self.status").is_err_and(|text| text.contains("undefined field 'status'")));
    assert!(
        run("self.metadata.labels").is_err_and(|text| text.contains("undefined field 'labels'"))
    );
    assert!(
        run("self.spec.replicas == '3'").is_err_and(|text| text.contains("no matching overload"))
    );
}

#[test]
fn estimates_follow_sizes() {
    let decl = schema();
    let env = Env::new().variable("self", decl.ty());
    let decls = BTreeMap::from([("self".to_owned(), &decl)]);
    let estimate = |source: &str| env.compile(source).unwrap().estimate(&decls);
    let bounded = estimate("self.spec.names.all(x, x.startsWith('a'))");
    assert!(bounded.max < 100, "{bounded:?}");
    let unbounded = estimate("self.spec.labels.all(x, self.spec.labels.all(y, x != y))");
    assert!(unbounded.max > crate::cel::estimate::RULE_COST_MAX, "{unbounded:?}");
    assert!(estimate("self.spec.replicas > 1").max <= 4);
}
