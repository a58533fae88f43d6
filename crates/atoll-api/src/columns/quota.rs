//! ResourceQuota.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    text("Request", "What is asked for of what may be asked for."),
    text("Limit", "The limits that are set of those that may be set."),
    AGE,
];

pub(crate) fn resource_quota(quota: &Value, now: Timestamp) -> Vec<Value> {
    let status = &quota["status"];
    let mut names: Vec<&String> =
        status.fields("hard").into_iter().flatten().map(|(name, _)| name).collect();
    names.sort();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for resource in names {
        let amount = |list: &str| status[list].opt_text(resource).unwrap_or("0").to_owned();
        let cell = format!("{resource}: {}/{}", amount("used"), amount("hard"));
        if resource.starts_with("limits.") { limits.push(cell) } else { requests.push(cell) }
    }
    vec![name(quota), json!(requests.join(", ")), json!(limits.join(", ")), age(quota, now)]
}
