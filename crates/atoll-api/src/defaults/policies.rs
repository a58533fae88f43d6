//! Admission policies in CEL, and their bindings.

use serde_json::Value;

use super::{absent, each, empty, normalise, within};

pub(crate) fn validating(policy: &mut Value) {
    normalise(policy);
    within(policy, "spec", |spec| {
        absent(spec, "failurePolicy", "Fail");
        within(spec, "matchConstraints", match_resources);
    });
}

pub(crate) fn mutating(policy: &mut Value) {
    validating(policy);
}

pub(crate) fn binding(binding: &mut Value) {
    normalise(binding);
    within(binding, "spec", |spec| {
        within(spec, "paramRef", |param| absent(param, "parameterNotFoundAction", "Deny"));
        within(spec, "matchResources", match_resources);
    });
}

fn match_resources(resources: &mut Value) {
    absent(resources, "matchPolicy", "Equivalent");
    empty(resources, "namespaceSelector");
    empty(resources, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in each(resources, list) {
            absent(rule, "scope", "*");
        }
    }
}
