//! Endpoints and EndpointSlices: protocols of ports.

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, zero};

pub(crate) fn endpoints(endpoints: &mut Value) {
    normalise(endpoints);
    for subset in each(endpoints, "subsets") {
        for port in each(subset, "ports") {
            zero(port, "protocol", "TCP");
        }
    }
}

pub(crate) fn slice(slice: &mut Value) {
    normalise(slice);
    for endpoint in each(slice, "endpoints") {
        empty(endpoint, "conditions");
    }
    for port in each(slice, "ports") {
        absent(port, "name", "");
        absent(port, "protocol", "TCP");
    }
    // The Go types always write both lists, null when they are empty.
    for list in ["endpoints", "ports"] {
        absent(slice, list, json!(null));
    }
}
