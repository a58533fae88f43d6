//! Configurations of admission webhooks.

use serde_json::Value;

use super::{absent, each, empty, normalise, within};

/// Seconds that a webhook has to answer.
const TIMEOUT_SECONDS: i64 = 10;
/// Where a webhook's Service listens.
const SERVICE_PORT: i64 = 443;

pub(crate) fn validating(configuration: &mut Value) {
    normalise(configuration);
    each(configuration, "webhooks").for_each(webhook);
}

pub(crate) fn mutating(configuration: &mut Value) {
    validating(configuration);
    for webhook in each(configuration, "webhooks") {
        absent(webhook, "reinvocationPolicy", "Never");
    }
}

fn webhook(webhook: &mut Value) {
    absent(webhook, "failurePolicy", "Fail");
    absent(webhook, "matchPolicy", "Equivalent");
    empty(webhook, "namespaceSelector");
    empty(webhook, "objectSelector");
    absent(webhook, "timeoutSeconds", TIMEOUT_SECONDS);
    empty(webhook, "clientConfig");
    within(webhook, "clientConfig", |config| {
        within(config, "service", |service| absent(service, "port", SERVICE_PORT));
    });
    for rule in each(webhook, "rules") {
        absent(rule, "scope", "*");
    }
}
