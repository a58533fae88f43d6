//! APIService.

use serde_json::Value;

use super::{absent, empty, normalise, within};

const SERVICE_PORT: i64 = 443;

pub(crate) fn api_service(service: &mut Value) {
    normalise(service);
    empty(service, "status");
    within(service, "spec", |spec| {
        within(spec, "service", |service| absent(service, "port", SERVICE_PORT));
        // Go leaves a false flag out.
        if spec["insecureSkipTLSVerify"] == false
            && let Value::Object(fields) = spec
        {
            fields.remove("insecureSkipTLSVerify");
        }
    });
}
