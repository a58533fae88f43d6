//! Reading object trees without ceremony: absent and null fields read as zero values.
//!
//! The Go types that clients know make no difference between an absent field and its zero
//! value; these readers take the same view. Nothing here changes a tree.

use serde_json::{Map, Value};

/// Readers that never fail; a field of another type reads as absent.
pub trait Access {
    /// The string, or `""`.
    fn text(&self, key: &str) -> &str;
    fn opt_text(&self, key: &str) -> Option<&str>;
    fn int(&self, key: &str) -> Option<i64>;
    fn opt_flag(&self, key: &str) -> Option<bool>;
    /// The boolean, or false.
    fn flag(&self, key: &str) -> bool;
    /// The list, or an empty one.
    fn items(&self, key: &str) -> &[Value];
    /// The object's fields, when there is an object.
    fn fields(&self, key: &str) -> Option<&Map<String, Value>>;
    /// Whether the field is there and not null.
    fn has(&self, key: &str) -> bool;
}

impl Access for Value {
    fn text(&self, key: &str) -> &str {
        self.opt_text(key).unwrap_or("")
    }

    fn opt_text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    fn int(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(Value::as_i64)
    }

    fn opt_flag(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    fn flag(&self, key: &str) -> bool {
        self.opt_flag(key).unwrap_or(false)
    }

    fn items(&self, key: &str) -> &[Value] {
        self.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn fields(&self, key: &str) -> Option<&Map<String, Value>> {
        self.get(key).and_then(Value::as_object)
    }

    fn has(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.is_null())
    }
}
