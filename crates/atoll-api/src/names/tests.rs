//! The texts, word for word.

use super::*;

#[test]
fn explains_a_subdomain() {
    assert_eq!(
        dns1123_subdomain("A_b"),
        ["a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
          or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
          regex used for validation is \
          '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
    );
    assert!(dns1123_subdomain("a.b-c.9").is_empty());
    assert_eq!(dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
}

#[test]
fn explains_a_label() {
    assert_eq!(
        dns1123_label("-a"),
        ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
          and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
          regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
    );
    assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
}

#[test]
fn a_generated_name_may_end_in_a_dash() {
    assert!(subdomain_rule("web-", true).is_empty());
    assert!(!subdomain_rule("web-", false).is_empty());
}

#[test]
fn knows_qualified_names() {
    assert!(qualified_name("example.com/My_Name").is_empty());
    assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
    assert_eq!(qualified_name("a/b/c").len(), 1);
    assert_eq!(qualified_name("").len(), 2);
}

#[test]
fn knows_port_names() {
    assert!(port_name("http-alt").is_empty());
    assert_eq!(port_name("123"), ["must contain at least one letter (a-z)"]);
    assert_eq!(port_name("a--b"), ["must not contain consecutive hyphens"]);
}
