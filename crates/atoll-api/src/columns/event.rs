//! Events, of both groups.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, NAME, name, since, text};
use crate::access::Access as _;

pub(crate) const COLUMNS: &[Column] = &[
    text("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
    text("Type", "Type of this event (Normal, Warning), new types could be added in the future."),
    text("Reason", "The reason for the transition into the object's current status."),
    text("Object", "The object that this event is about."),
    text("Subobject", "The part of the object that this event is about.").wide(),
    text("Source", "The component reporting this event.").wide(),
    text("Message", "A human-readable description of the status of this operation."),
    text("First Seen", "The time at which the event was first recorded.").wide(),
    text("Count", "The number of times this event has occurred.").wide(),
    Column { priority: 1, ..NAME },
];

/// The row of a core event.
pub(crate) fn row(event: &Value, now: Timestamp) -> Vec<Value> {
    let known = |time: &str| if time.is_empty() { None } else { Some(since(time, now)) };
    let first = known(event.text("firstTimestamp"))
        .or_else(|| known(event.text("eventTime")))
        .unwrap_or_else(|| "<unknown>".to_owned());
    let mut last = known(event.text("lastTimestamp")).unwrap_or_else(|| first.clone());
    let mut count = event.int("count").unwrap_or(0).max(1);
    let series = &event["series"];
    if series.is_object() {
        last = since(series.text("lastObservedTime"), now);
        count = series.int("count").unwrap_or(0);
    }
    let object = &event["involvedObject"];
    vec![
        json!(last),
        json!(event.text("type")),
        json!(event.text("reason")),
        json!(target(object)),
        json!(object.text("fieldPath")),
        json!(source(event)),
        json!(event.text("message").trim()),
        json!(first),
        json!(count),
        name(event),
    ]
}

/// The row of an events.k8s.io event.
pub(crate) fn new_row(event: &Value, now: Timestamp) -> Vec<Value> {
    let mut core = event.clone();
    crate::kinds::event::to_core(&mut core);
    row(&core, now)
}

fn target(object: &Value) -> String {
    let kind = object.text("kind").to_lowercase();
    match object.text("name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(event: &Value) -> String {
    let first = |one: &str, other: &str| if one.is_empty() { other } else { one }.to_owned();
    let source = &event["source"];
    let component = first(source.text("component"), event.text("reportingComponent"));
    match first(source.text("host"), event.text("reportingInstance")).as_str() {
        "" => component,
        host => format!("{component}, {host}"),
    }
}
