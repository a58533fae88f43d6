//! Events: the times and the source that are always written.

use serde_json::{Value, json};

use super::{absent, empty, normalise};

/// Go writes the zero time as null.
const ZERO_TIMES: [&str; 3] = ["firstTimestamp", "lastTimestamp", "eventTime"];

pub(crate) fn core(event: &mut Value) {
    normalise(event);
    empty(event, "involvedObject");
    empty(event, "source");
    for field in ZERO_TIMES {
        absent(event, field, Value::Null);
    }
    absent(event, "reportingComponent", "");
    absent(event, "reportingInstance", "");
}

pub(crate) fn new(event: &mut Value) {
    normalise(event);
    absent(event, "eventTime", Value::Null);
    empty(event, "regarding");
    empty(event, "deprecatedSource");
    for field in ["deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
        absent(event, field, json!(null));
    }
}
