//! Expressions in CEL: those of rules and policies come with objects that anybody may write.

use std::collections::BTreeMap;

use atoll_api::cel::{Bindings, Decl, Env, Type, Value};
use serde_json::{Value as Json, json};

use super::{parts, texts};
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "cel", run: evaluate, seeds: expressions },
    Target { name: "cel_schema", run: declared, seeds: schemas },
];

/// What one evaluation may cost here: enough to reach everything.
const COST_MAX: u64 = 50_000;

/// An expression over an object: it does not compile, fails, or gives a value, within its cost
/// by one step.
fn evaluate(input: &[u8]) {
    let Some([source, object]) = parts::<2>(input) else { return };
    let Ok(source) = std::str::from_utf8(source) else { return };
    let object: Json = serde_json::from_slice(object).unwrap_or(Json::Null);
    let env = Env::new().variable("object", Type::Dyn).with_patches();
    let Ok(program) = env.compile(source) else { return };
    let mut bindings = Bindings::default();
    bindings.set("object", Value::of_json(&object));
    let done = program.evaluate(&bindings, COST_MAX);
    if let Ok(value) = done.result {
        assert!(done.cost <= COST_MAX, "{} went over its cost", done.cost);
        // Some values have no JSON; that is an error and nothing worse.
        drop(value.to_json());
    }
    let found = program.estimate(&BTreeMap::new());
    assert!(found.min <= found.max, "{found:?}");
}

/// A schema, an expression over what it describes, and an object that may not fit.
fn declared(input: &[u8]) {
    let Some([schema, source, object]) = parts::<3>(input) else { return };
    let Ok(schema) = serde_json::from_slice::<Json>(schema) else { return };
    let Ok(source) = std::str::from_utf8(source) else { return };
    let object: Json = serde_json::from_slice(object).unwrap_or(Json::Null);
    let Some(decl) = Decl::of_schema(&schema, "Fuzzed", true) else { return };
    let Ok(program) = Env::new().variable("self", decl.ty()).compile(source) else { return };
    let found = program.estimate(&BTreeMap::from([("self".to_owned(), &decl)]));
    assert!(found.min <= found.max, "{found:?}");
    let Ok(value) = Value::of_declared(&object, &decl) else { return };
    let mut bindings = Bindings::default();
    bindings.set("self", value);
    drop(program.evaluate(&bindings, COST_MAX).result.map(|value| value.to_json()));
}

fn expressions() -> Vec<Vec<u8>> {
    let object = r#"{"spec":{"replicas":3,"names":["a","b"],"map":{"k":"v"}},"text":"a,b"}"#;
    let sources = [
        "object.spec.replicas <= 5 && has(object.spec.map.k)",
        "object.spec.names.all(x, x.matches('^[a-z]+$')) || size(object.text.split(',')) > 1",
        "object.?spec.?none.orValue(1) == 1 ? [1, 2].map(x, x * 2) : [?optional.of(3)]",
        "{'a': 1u, ?'b': optional.none()}.transformMap(k, v, v + 1u)",
        "'%s %d %.3f'.format(['a', 1, 2.5]) + strings.quote(object.text)",
        "ip('10.0.0.1').isGlobalUnicast() && cidr('10.0.0.0/8').containsIP('10.1.2.3')",
        "quantity('1Gi').add(quantity('500m')).asApproximateFloat() > 1.0",
        "timestamp('2026-01-02T03:04:05Z') + duration('1h30m') > timestamp(0)",
        "semver('1.2.3-a.1').isLessThan(semver('1.2.3')) && url('https://a:1/b?c=d').getPort() == '1'",
        "Object{spec: Object.spec{replicas: 1}}",
        "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b/c'), value: 1}]",
        "format.dns1123Label().validate(object.text).hasValue() && sets.contains([1, 2], [1])",
        "cel.bind(x, object.spec.names, x + x).sort().distinct().slice(0, 1)",
    ];
    sources.iter().map(|source| format!("{source}\0{object}").into_bytes()).collect()
}

fn schemas() -> Vec<Vec<u8>> {
    let schema = json!({"type": "object", "properties": {
        "list": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "at": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
    }});
    let object = r#"{"list":["a"],"at":"2026-01-02T03:04:05Z","port":1,"map":{"k":1}}"#;
    let list =
        format!("{schema}\0self.list.all(x, x in self.map) && self.at > timestamp(0)\0{object}");
    let port = format!("{schema}\0self.port == 1 || self.list + ['b'] == self.list\0{object}");
    texts(&[list.as_str(), port.as_str()])
}
