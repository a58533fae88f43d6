//! Dynamic resource allocation: devices and claims to them.

use serde_json::Value;

use super::{absent, each, empty, normalise, within, zero};
use crate::access::Access as _;

pub(crate) fn resource_claim(claim: &mut Value) {
    normalise(claim);
    empty(claim, "spec");
    empty(claim, "status");
    within(claim, "spec", claim_spec);
}

pub(crate) fn claim_template(template: &mut Value) {
    normalise(template);
    within(template, "spec", |template| {
        empty(template, "spec");
        within(template, "spec", claim_spec);
    });
}

fn claim_spec(spec: &mut Value) {
    empty(spec, "devices");
    within(spec, "devices", |devices| {
        for request in each(devices, "requests") {
            within(request, "exactly", device_request);
            each(request, "firstAvailable").for_each(device_request);
        }
    });
}

fn device_request(request: &mut Value) {
    zero(request, "allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        zero(request, "count", 1);
    }
    each(request, "tolerations").for_each(|toleration| absent(toleration, "operator", "Equal"));
}
