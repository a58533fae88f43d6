//! Bindings of roles.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;

pub(crate) const BINDING: &[Column] = &[
    NAME,
    text("Role", "The role that the subjects are given."),
    AGE,
    text("Users", "Users in the roleBinding").wide(),
    text("Groups", "Groups in the roleBinding").wide(),
    text("ServiceAccounts", "ServiceAccounts in the roleBinding").wide(),
];

pub(crate) fn binding(binding: &Value, now: Timestamp) -> Vec<Value> {
    let role = &binding["roleRef"];
    let subjects = |kind: &str| {
        let named = |subject: &Value| match subject.text("namespace") {
            namespace if kind == "ServiceAccount" && !namespace.is_empty() => {
                format!("{namespace}/{}", subject.text("name"))
            }
            _ => subject.text("name").to_owned(),
        };
        let all = binding.items("subjects").iter();
        let texts: Vec<String> =
            all.filter(|subject| subject.text("kind") == kind).map(named).collect();
        json!(texts.join(", "))
    };
    vec![
        name(binding),
        json!(format!("{}/{}", role.text("kind"), role.text("name"))),
        age(binding, now),
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
