//! Which names, labels and keys are allowed, in the words of apimachinery.
//!
//! Every check gives the texts of what is wrong; none means that the value is fine.

use std::net::IpAddr;

use crate::field::{Error, Path};

/// How the name of an object is checked. `prefix` is true for `metadata.generateName`, whose
/// trailing dash is no fault.
pub type Rule = fn(name: &str, prefix: bool) -> Vec<String>;

/// Longest RFC 1123 and 1035 label.
pub const LABEL_LENGTH_MAX: usize = 63;
/// Longest RFC 1123 subdomain.
pub const SUBDOMAIN_LENGTH_MAX: usize = 253;
/// Keys and values of all annotations of an object together; more is refused.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_PATTERN: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_PATTERN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// An RFC 1123 label: most parts of DNS names.
#[must_use]
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_LENGTH_MAX {
        faults.push(max_length(LABEL_LENGTH_MAX));
    }
    if !is_label(value) {
        if is_subdomain(value) {
            // A subdomain that is no label can only have dots.
            faults.push("must not contain dots".to_owned());
        } else {
            faults.push(regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
                 or '-', and must start and end with an alphanumeric character",
                LABEL_PATTERN,
                &["my-name", "123-abc"],
            ));
        }
    }
    faults
}

/// An RFC 1123 subdomain: most objects' names.
#[must_use]
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_LENGTH_MAX {
        faults.push(max_length(SUBDOMAIN_LENGTH_MAX));
    }
    if !is_subdomain(value) {
        faults.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_PATTERN,
            &["example.com"],
        ));
    }
    faults
}

/// A subdomain whose labels may have underscores: names that are looked up, not given.
#[must_use]
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    const LABEL: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_LENGTH_MAX {
        faults.push(max_length(SUBDOMAIN_LENGTH_MAX));
    }
    let label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        is_label(&label.replace('_', "-")) && !label.starts_with('_') && !label.ends_with('_')
    };
    if value.is_empty() || !value.split('.').all(label) {
        faults.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '_', '-' or '.', and must start and end with an alphanumeric character",
            &format!(r"{LABEL}(\.{LABEL})*"),
            &["example.com"],
        ));
    }
    faults
}

/// An RFC 1035 label: it starts with a letter.
#[must_use]
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_LENGTH_MAX {
        faults.push(max_length(LABEL_LENGTH_MAX));
    }
    if !(is_label(value) && value.starts_with(|first: char| first.is_ascii_lowercase())) {
        faults.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_PATTERN,
            &["my-name", "abc-123"],
        ));
    }
    faults
}

/// A domain whose first label may be `*`.
#[must_use]
pub fn wildcard_dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_LENGTH_MAX {
        faults.push(max_length(SUBDOMAIN_LENGTH_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain) {
        faults.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' \
             and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN_PATTERN}"),
            &["*.example.com"],
        ));
    }
    faults
}

/// `prefix/name`: keys of labels and annotations, taint keys, resource names.
#[must_use]
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    dns1123_subdomain(prefix)
                        .into_iter()
                        .map(|fault| format!("prefix part {fault}")),
                );
            }
            *name
        }
        _ => {
            let text = part_error();
            faults.push(format!(
                "a valid label key {text} with an optional DNS subdomain prefix and '/' \
                 (e.g. 'example.com/MyName')"
            ));
            return faults;
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LENGTH_MAX {
        faults.push(format!("name part {}", max_bytes(LABEL_LENGTH_MAX)));
    }
    if !is_qualified_part(name) {
        faults.push(format!("name part {}", part_error()));
    }
    faults
}

fn part_error() -> String {
    regex_error(
        "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
         an alphanumeric character",
        QUALIFIED_PATTERN,
        &["MyName", "my.name", "123-abc"],
    )
}

/// The value of a label; it may be empty.
#[must_use]
pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_LENGTH_MAX {
        faults.push(max_bytes(LABEL_LENGTH_MAX));
    }
    if !(value.is_empty() || is_qualified_part(value)) {
        faults.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// A domain of at least two segments, perhaps with a dot at its end.
#[must_use]
pub fn fully_qualified_domain(at: &Path, name: &str) -> Vec<Error> {
    if name.is_empty() {
        return vec![at.required("")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let faults = dns1123_subdomain(name);
    if !faults.is_empty() {
        return vec![at.invalid(name, faults.join(","))];
    }
    if !name.contains('.') {
        return vec![
            at.invalid(name, "should be a domain with at least two segments separated by dots"),
        ];
    }
    for label in name.split('.') {
        let faults = dns1123_label(label);
        if !faults.is_empty() {
            return vec![at.invalid(label, faults.join(","))];
        }
    }
    Vec::new()
}

/// A number of a port.
#[must_use]
pub fn port_number(port: i64) -> Option<&'static str> {
    (!(1..=65535).contains(&port)).then_some("must be between 1 and 65535, inclusive")
}

/// The name of a port.
#[must_use]
pub fn port_name(name: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let has_letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    if name.len() > 15 {
        faults.push(max_length(15));
    }
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        faults.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !has_letter {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// The name of an environment variable; anything printable but `=` goes since 1.34.
#[must_use]
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|byte| (0x20..=0x7e).contains(&byte) && byte != b'=') {
        Vec::new()
    } else {
        vec![
            "a valid environment variable name must consist only of printable ASCII characters \
             other than '='"
                .to_owned(),
        ]
    }
}

/// A key of a ConfigMap or Secret.
#[must_use]
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_LENGTH_MAX {
        faults.push(max_length(SUBDOMAIN_LENGTH_MAX));
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if value.is_empty() || !value.bytes().all(allowed) {
        faults.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            r"[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." {
        faults.push("must not be '.'".to_owned());
    } else if value == ".." {
        faults.push("must not be '..'".to_owned());
    } else if value.starts_with("..") {
        faults.push("must not start with '..'".to_owned());
    }
    faults
}

/// A path of HTTP or the like, `25%`.
#[must_use]
pub fn percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Vec::new()
    } else {
        vec![regex_error(
            "a valid percent string must be a numeric string followed by an ending '%'",
            "[0-9]+%",
            &["1%", "93%"],
        )]
    }
}

/// An address of IPv4 or IPv6.
#[must_use]
pub fn ip(value: &str) -> Vec<String> {
    if value.parse::<IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
    }
}

/// A network, `10.0.0.0/8`.
#[must_use]
pub fn cidr(value: &str) -> Vec<String> {
    let valid = value.split_once('/').is_some_and(|(address, length)| {
        let bits = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        length.parse::<u8>().is_ok_and(|length| length <= bits)
    });
    if valid {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
    }
}

/// A name that is one element of a URL path: RBAC's names.
#[must_use]
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    let mut faults = Vec::new();
    for illegal in ["/", "%"] {
        if value.contains(illegal) {
            faults.push(format!("may not contain '{illegal}'"));
        }
    }
    faults
}

/// The rule for most kinds.
#[must_use]
pub fn subdomain_rule(name: &str, prefix: bool) -> Vec<String> {
    dns1123_subdomain(&masked(name, prefix))
}

/// The rule for Namespaces.
#[must_use]
pub fn label_rule(name: &str, prefix: bool) -> Vec<String> {
    dns1123_label(&masked(name, prefix))
}

/// The rule for names that must start with a letter.
#[must_use]
pub fn label_1035_rule(name: &str, prefix: bool) -> Vec<String> {
    dns1035_label(&masked(name, prefix))
}

/// The rule for RBAC kinds.
#[must_use]
pub fn path_segment_rule(name: &str, prefix: bool) -> Vec<String> {
    if !prefix {
        return path_segment(name);
    }
    let mut faults = Vec::new();
    for illegal in ["/", "%"] {
        if name.contains(illegal) {
            faults.push(format!("may not contain '{illegal}'"));
        }
    }
    faults
}

/// The rule for kinds whose objects are never stored.
#[must_use]
pub fn any_rule(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

/// What upstream says of names that are too long.
#[must_use]
pub fn max_length(length_max: usize) -> String {
    format!("must be no more than {length_max} characters")
}

/// The same for keys and values of labels, where upstream has come to count in bytes.
fn max_bytes(bytes_max: usize) -> String {
    format!("must be no more than {bytes_max} bytes")
}

/// A fault with the pattern that the value does not match.
#[must_use]
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let quoted: Vec<String> = examples.iter().map(|one| format!("'{one}'")).collect();
    let all = quoted.join(",  or ");
    format!("{message} (e.g. {all}, regex used for validation is '{pattern}')")
}

#[must_use]
pub fn is_label(value: &str) -> bool {
    let bytes = value.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

#[must_use]
pub fn is_subdomain(value: &str) -> bool {
    !value.is_empty() && value.split('.').all(is_label)
}

fn is_qualified_part(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A generated name ends in a dash that a suffix follows.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
