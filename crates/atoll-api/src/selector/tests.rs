//! Selectors as kubectl users write them.

use super::{FieldSelector, LabelSelector};
use serde_json::json;

fn matches(selector: &str, labels: &serde_json::Value) -> bool {
    LabelSelector::parse(selector).unwrap().matches(|key| labels.get(key)?.as_str())
}

fn error(selector: &str) -> String {
    LabelSelector::parse(selector).unwrap_err().to_string()
}

#[test]
fn matches_as_upstream_does() {
    let labels = json!({"app": "web", "tier": "front", "gen": "7"});
    for selector in [
        "",
        "app=web",
        "app==web",
        "app",
        "!db",
        "app in (web,api)",
        "db notin (x)",
        "app!=api",
        "gen>5",
        "gen<8",
        "app=web,tier=front",
        " app = web , tier in ( front ) ",
        "db!=x",
    ] {
        assert!(matches(selector, &labels), "{selector}");
    }
    for selector in ["app=api", "db", "!app", "app notin (web)", "gen>7", "app in ()", "app="] {
        assert!(!matches(selector, &labels), "{selector}");
    }
    assert!(matches("in in (in)", &json!({"in": "in"})));
}

#[test]
fn says_what_is_wrong_in_upstreams_words() {
    assert_eq!(error("=x"), "found '=', expected: !, identifier, or 'end of string'");
    assert_eq!(error("a in x"), "unable to parse requirement: found 'x' expected: '('");
    assert_eq!(
        error("a b"),
        "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"
    );
    assert_eq!(error("a,"), "found '', expected: identifier after ','");
    assert_eq!(error("a=b c"), "found 'c', expected: ',' or 'end of string'");
    assert!(error("a=-x").starts_with(
        "unable to parse requirement: values[0][a]: Invalid value: \"-x\": a valid label must be"
    ));
    assert!(
        error("a/b/c=x").starts_with("unable to parse requirement: key: Invalid value: \"a/b/c\"")
    );
}

#[test]
fn reads_the_selector_of_an_object() {
    let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["d", "e"]},
        {"key": "f", "operator": "DoesNotExist"},
    ]});
    let selector = LabelSelector::from_object(&selector).unwrap();
    let object = |labels| json!({"metadata": {"labels": labels}});
    assert!(selector.matches_object(&object(json!({"a": "b", "c": "e"}))));
    assert!(!selector.matches_object(&object(json!({"a": "b", "c": "e", "f": ""}))));
    assert!(!selector.matches_object(&json!({})));
    let unknown = json!({"matchExpressions": [{"key": "c", "operator": "Like"}]});
    assert!(LabelSelector::from_object(&unknown).is_err());
}

#[test]
fn parses_field_selectors() {
    let selector = FieldSelector::parse("metadata.name=x,status.phase!=Failed,a==b\\,c").unwrap();
    let expected =
        [("metadata.name", true, "x"), ("status.phase", false, "Failed"), ("a", true, "b,c")];
    let expected: Vec<_> =
        expected.into_iter().map(|(a, b, c)| (a.to_owned(), b, c.to_owned())).collect();
    assert_eq!(selector.terms, expected);
    assert_eq!(
        FieldSelector::parse("metadata.name").unwrap_err().to_string(),
        "invalid selector: 'metadata.name'; can't understand 'metadata.name'"
    );
}

proptest::proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in "[a-z=!(),<> \\\\]{0,20}") {
        drop(LabelSelector::parse(&text));
        drop(FieldSelector::parse(&text));
    }
}

/// A form feed was neither skipped nor read, and the scan never ended.
#[test]
fn a_space_that_upstream_does_not_know_ends_the_scan_with_an_error() {
    for text in ["\u{c}", "a in (b,\u{c})", "\u{b}=x", "\u{a0}"] {
        assert!(LabelSelector::parse(text).is_err(), "{text:?}");
    }
}
