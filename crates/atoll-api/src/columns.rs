//! Table output: the columns of `kubectl get` and the cells of a row.
//!
//! Columns and cell texts are upstream's. Ages are relative to a time that the caller gives.

pub(crate) mod aggregation;
pub(crate) mod autoscaling;
pub(crate) mod batch;
pub(crate) mod config;
pub(crate) mod disruption;
pub(crate) mod dynamic;
pub(crate) mod endpoints;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod flow;
pub(crate) mod networking;
pub(crate) mod node;
pub(crate) mod plain;
pub mod pod;
pub(crate) mod policies;
pub(crate) mod quota;
pub(crate) mod rbac;
pub(crate) mod replication;
pub(crate) mod runtime;
pub(crate) mod service;
pub(crate) mod stateful;
pub(crate) mod storage;
pub(crate) mod webhooks;
pub(crate) mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::Access as _;

/// One column of a Table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the column that names the object.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

/// The columns of a kind that has none of its own.
pub const GENERIC: &[Column] = CREATED_AT;

/// Name and time of creation.
pub const CREATED_AT: &[Column] = &[NAME, date("Created At", CREATED_AT_TEXT)];

pub(crate) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace. Is required when creating resources, \
                  although some resources may allow a client to request the generation of an \
                  appropriate name automatically. Name is primarily intended for creation \
                  idempotence and configuration definition. Cannot be updated. More info: \
                  https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
    priority: 0,
};

pub(crate) const AGE: Column = text("Age", CREATED_AT_TEXT);

const CREATED_AT_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. \
     It is not guaranteed to be set in happens-before order across separate operations. Clients \
     may not set this value. It is represented in RFC3339 form and is in UTC.";

pub(crate) const fn text(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "string", format: "", description, priority: 0 }
}

pub(crate) const fn integer(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description, priority: 0 }
}

pub(crate) const fn boolean(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", description, priority: 0 }
}

const fn date(name: &'static str, description: &'static str) -> Column {
    Column { name, kind: "date", format: "", description, priority: 0 }
}

impl Column {
    /// The column as a Table defines it.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.kind,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        })
    }

    /// Shown only with `-o wide`.
    pub(crate) const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }
}

/// The row of a kind that has no columns of its own.
#[must_use]
pub fn generic_row(object: &Value, now: Timestamp) -> Vec<Value> {
    created_at_row(object, now)
}

#[must_use]
pub fn created_at_row(object: &Value, _: Timestamp) -> Vec<Value> {
    let created = object["metadata"].text("creationTimestamp");
    vec![name(object), json!(if created.is_empty() { "<unknown>" } else { created })]
}

pub(crate) fn name(object: &Value) -> Value {
    json!(object["metadata"].text("name"))
}

/// The age of an object, from its creation.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    json!(since(object["metadata"].text("creationTimestamp"), now))
}

/// How long ago a time was: `5m30s`, `<unknown>` when it is no time.
#[must_use]
pub fn since(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(seconds_between(time, now)),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Whole seconds, towards zero.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    to.duration_since(from).as_secs()
}

/// A duration as short as a person needs it.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit}{small}{small_unit}")
        }
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// Labels as `a=b,c=d`, `<none>` when there are none.
pub(crate) fn label_text(labels: &Value) -> String {
    let terms: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    if terms.is_empty() { "<none>".to_owned() } else { terms.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_short_as_upstream_writes_them() {
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (3000 * 86400, "8y"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text, "{seconds} seconds");
        }
    }
}
