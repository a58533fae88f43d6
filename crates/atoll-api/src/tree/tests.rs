//! What people and attackers send.

use super::{DecodeError, from_json, from_yaml, from_yaml_all, to_yaml};
use serde_json::{Value, json};

fn yaml(text: &str) -> Value {
    from_yaml(text.as_bytes()).unwrap().object
}

#[test]
fn reports_duplicate_keys_by_path() {
    let decoded = from_json(br#"{"a":{"b":[{"c":1,"c":2}]},"a2":1,"a2":1}"#).unwrap();
    assert_eq!(decoded.duplicates, ["a.b[0].c", "a2"]);
    assert_eq!(decoded.object["a"]["b"][0]["c"], 2);
    let decoded = from_yaml(b"a:\n  - b: 1\n    b: 2\n").unwrap();
    assert_eq!(decoded.duplicates, ["a[0].b"]);
}

#[test]
fn says_where_json_is_broken() {
    let error = from_json(b"{\n  \"a\": nope}").unwrap_err();
    assert!(matches!(error, DecodeError::Json { line: 2, .. }), "{error}");
    assert_eq!(from_json(b" "), Err(DecodeError::Empty));
    assert!(from_json("[".repeat(100_000).as_bytes()).is_err());
    assert!(from_json(b"{} {}").is_err());
}

#[test]
fn says_where_yaml_is_broken() {
    let error = from_yaml(b"spec:\n  a: [1, 2\n  b: }\n").unwrap_err();
    assert!(matches!(error, DecodeError::Yaml { line: 2..=4, .. }), "{error}");
    let error = from_yaml(b"spec:\n  ports:\n    - {a: {[1]: 2}}\n").unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    assert!(error.to_string().contains("spec.ports[0].a"), "{error}");
    assert!(from_yaml("[".repeat(100_000).as_bytes()).is_err());
    assert!(from_yaml("- ".repeat(10_000).as_bytes()).is_err());
}

#[test]
fn reads_scalars_by_the_rules_of_yaml_1_1() {
    let table = [
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("~", Value::Null),
        ("null", Value::Null),
        ("0777", json!(511)),
        ("0o17", json!(15)),
        ("0x1F", json!(31)),
        ("0b11", json!(3)),
        ("1_000", json!(1000)),
        ("-5", json!(-5)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000)),
        ("\"yes\"", json!("yes")),
        ("!!str 5", json!("5")),
        ("2020-01-01", json!("2020-01-01")),
        ("1.2.3", json!("1.2.3")),
        ("10m", json!("10m")),
        ("1:30", json!("1:30")),
        ("089", json!(89)),
        ("v1", json!("v1")),
        ("18446744073709551615", json!(u64::MAX)),
    ];
    for (text, expected) in table {
        assert_eq!(yaml(&format!("a: {text}"))["a"], expected, "{text}");
    }
}

#[test]
fn expands_aliases_and_merge_keys_but_no_bombs() {
    let object = yaml("base: &b {x: 1, z: 2}\nuse:\n  <<: *b\n  z: 3\nlist: [*b]\n");
    assert_eq!(object["use"], json!({"x": 1, "z": 3}));
    assert_eq!(object["list"], json!([{"x": 1, "z": 2}]));
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(from_yaml(bomb.as_bytes()).unwrap_err().to_string().contains("excessive aliasing"));
}

#[test]
fn splits_documents() {
    assert!(from_yaml(b"{a: 1}").is_ok(), "YAML is not");
    let error = from_yaml_all(b"{\"a\": 1,\n}").unwrap_err();
    assert!(matches!(error, DecodeError::Json { line: 2, .. }), "a file of JSON is JSON: {error}");
    let documents = from_yaml_all(b"# nothing\n---\na: 1\n---\n---\nb: 2\n...\n").unwrap();
    let objects: Vec<_> = documents.iter().map(|one| one.decoded.object.clone()).collect();
    assert_eq!(objects, [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(from_yaml(b"a: 1\n---\nb: 2\n"), Err(DecodeError::SeveralDocuments));
    assert_eq!(from_yaml(b"# nothing\n"), Err(DecodeError::Empty));
}

#[test]
fn writes_yaml_that_reads_the_same() {
    let object = json!({"a": {"b": [1, {"c": "x", "d": []}, [1, 2], "- x"], "e": {}},
        "n": null, "s": "yes", "t": "a: b", "m": "l1\nl2\n", "k": "l1\n\n l2\n\n", "z": "", "q": "it's \"q\"",
        "u": " lead", "num": "1e3", "tab": "a\tb", "h": "x #y", "c:": "d:", "f": 1.5, "star": "*x", "w": "\n\nx"});
    let text = to_yaml(&object);
    assert_eq!(yaml(&text), object, "{text}");
    for text in
        ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z", "2026-1-2", "12:30", "1:2:3.5"]
    {
        assert_eq!(to_yaml(&json!({ "a": text })), format!("a: \"{text}\"\n"));
    }
    for text in ["10.0.0.1:80", "2026-01", "2026-01-x", "12:99", "2026-01-01Tx"] {
        assert_eq!(to_yaml(&json!({ "a": text })), format!("a: {text}\n"));
    }
    assert_eq!(to_yaml(&json!({"l": [{"a": 1, "b": 2}]})), "l:\n- a: 1\n  b: 2\n");
}

proptest::proptest! {
    #[test]
    fn any_yaml_string_survives(text in "[ -~\\n\\t:#'\"é]{0,30}") {
        let object = json!({"a": [text.clone()], text: 1});
        proptest::prop_assert_eq!(yaml(&to_yaml(&object)), object);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(text in "[-a-z0-9:&*<!|>\\[\\]{}, \\n]{0,60}") {
        drop(from_yaml_all(text.as_bytes()));
        drop(from_json(text.as_bytes()));
    }
}
