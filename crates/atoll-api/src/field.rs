//! What is wrong with which field: paths, errors and their texts.
//!
//! The texts are those of `k8s.io/apimachinery/pkg/util/validation/field`: clients and tests
//! match them word for word.

use std::fmt;

use serde_json::Value;

/// The place of a field: `spec.containers[0].env[1].name`, `metadata.labels[app]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The place before any field; a child of it is a top-level field.
    #[must_use]
    pub fn root() -> Self {
        Self(String::new())
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn required(&self, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::Required, None, detail)
    }

    #[must_use]
    pub fn invalid(&self, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::Invalid, Some(value.into()), detail)
    }

    /// Wrong as a whole, so that no value is shown.
    #[must_use]
    pub fn invalid_whole(&self, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::Invalid, None, detail)
    }

    #[must_use]
    pub fn forbidden(&self, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::Forbidden, None, detail)
    }

    #[must_use]
    pub fn duplicate(&self, value: impl Into<Value>) -> Error {
        self.error(ErrorKind::Duplicate, Some(value.into()), "")
    }

    #[must_use]
    pub fn not_found(&self, value: impl Into<Value>) -> Error {
        self.error(ErrorKind::NotFound, Some(value.into()), "")
    }

    /// The supported values are listed in the order given.
    #[must_use]
    pub fn not_supported(&self, value: impl Into<Value>, supported: &[&str]) -> Error {
        let quoted: Vec<String> = supported.iter().map(|one| quote(one)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        self.error(ErrorKind::NotSupported, Some(value.into()), detail)
    }

    #[must_use]
    pub fn too_long(&self, bytes_max: usize) -> Error {
        let unit = if bytes_max == 1 { "byte" } else { "bytes" };
        self.error(ErrorKind::TooLong, None, format!("may not be more than {bytes_max} {unit}"))
    }

    #[must_use]
    pub fn too_many(&self, actual: usize, items_max: usize) -> Error {
        let unit = if items_max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {items_max} {unit}");
        self.error(ErrorKind::TooMany, Some(Value::from(actual)), detail)
    }

    #[must_use]
    pub fn internal(&self, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::Internal, None, detail)
    }

    #[must_use]
    pub fn type_invalid(&self, value: impl Into<Value>, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::TypeInvalid, Some(value.into()), detail)
    }

    fn error(&self, kind: ErrorKind, bad_value: Option<Value>, detail: impl Into<String>) -> Error {
        Error { kind, path: self.to_string(), bad_value, detail: detail.into() }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    TooLong,
    TooMany,
    TypeInvalid,
    NotFound,
    Internal,
}

impl ErrorKind {
    /// The machine-readable word in a Status' causes.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }

    /// Whether an object with such an error is not judged by rules any more.
    #[must_use]
    pub fn blocks(self) -> bool {
        matches!(self, Self::Required | Self::TooLong | Self::TooMany | Self::TypeInvalid)
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One field that is not as it must be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: {}", self.body())]
pub struct Error {
    pub kind: ErrorKind,
    pub path: String,
    pub bad_value: Option<Value>,
    pub detail: String,
}

impl Error {
    /// The text without the path: a cause's `message`.
    #[must_use]
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        if let Some(value) = self.bad_value.as_ref().filter(|_| self.kind.shows_value()) {
            text.push_str(": ");
            text.push_str(&shown(value));
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The cause's `reason`: `FieldValueInvalid` and so on.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.kind.reason()
    }
}

/// `ConfigMap "x" is invalid: a`, or `[a, b]` for several; texts that repeat appear once.
#[must_use]
pub fn invalid_message(qualified_kind: &str, name: &str, errors: &[Error]) -> String {
    let mut text = format!("{qualified_kind} {} is invalid", quote(name));
    if let Some(all) = aggregate(errors) {
        text.push_str(": ");
        text.push_str(&all);
    }
    text
}

/// Several errors as one text; `None` when there are none.
#[must_use]
pub fn aggregate(errors: &[Error]) -> Option<String> {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.len() {
        0 => None,
        1 => texts.pop(),
        _ => Some(format!("[{}]", texts.join(", "))),
    }
}

/// A string in double quotes as Go's `%q` prints it.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            low if (low as u32) < 0x20 || low as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", low as u32));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => go_json(other),
    }
}

/// JSON as Go's encoder writes it: `<`, `>` and `&` are escaped.
fn go_json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prints_values_as_go_does() {
        let spec = Path::new("spec");
        let error = spec.child("replicas").invalid(-1, "must be greater than or equal to 0");
        assert_eq!(
            error.to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let labels = spec.child("labels").invalid(json!({"a": "b<"}), "no");
        assert_eq!(labels.to_string(), "spec.labels: Invalid value: {\"a\":\"b\\u003c\"}: no");
        let name = spec.child("x").index(1).key("k").duplicate("q\"\n");
        assert_eq!(name.to_string(), "spec.x[1][k]: Duplicate value: \"q\\\"\\n\"");
    }

    #[test]
    fn prints_each_kind_of_error() {
        let at = Path::new("f");
        assert_eq!(at.required("").to_string(), "f: Required value");
        assert_eq!(at.forbidden("no").to_string(), "f: Forbidden: no");
        assert_eq!(
            at.not_supported("x", &["A", "B"]).to_string(),
            "f: Unsupported value: \"x\": supported values: \"A\", \"B\""
        );
        assert_eq!(at.too_long(63).to_string(), "f: Too long: may not be more than 63 bytes");
        assert_eq!(at.too_many(5, 3).to_string(), "f: Too many: 5: must have at most 3 items");
        assert_eq!(at.not_found("x").to_string(), "f: Not found: \"x\"");
        assert_eq!(at.invalid(Value::Null, "d").to_string(), "f: Invalid value: null: d");
    }

    #[test]
    fn joins_several_errors_and_drops_repeats() {
        let at = Path::new("f");
        let one = at.required("");
        let two = at.forbidden("no");
        assert_eq!(
            invalid_message("Pod", "x", std::slice::from_ref(&one)),
            "Pod \"x\" is invalid: f: Required value"
        );
        assert_eq!(
            invalid_message("Pod", "x", &[one.clone(), two, one]),
            "Pod \"x\" is invalid: [f: Required value, f: Forbidden: no]"
        );
    }
}
