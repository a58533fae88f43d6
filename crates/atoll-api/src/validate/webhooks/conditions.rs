//! Conditions in CEL under which a webhook is called: their names and number.

use serde_json::Value;

use super::super::faults;
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

/// Conditions of one webhook.
const CONDITIONS_MAX: usize = 64;

pub(super) fn match_conditions(at: &Path, conditions: &[Value], errors: &mut Vec<Error>) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(at.too_many(conditions.len(), CONDITIONS_MAX));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        let name = condition.text("name");
        if condition.text("expression").trim().is_empty() {
            errors.push(at.child("expression").required(""));
        }
        if name.is_empty() {
            errors.push(at.child("name").required(""));
            continue;
        }
        faults(&at.child("name"), name, names::qualified_name(name), errors);
        if seen.contains(&name) {
            errors.push(at.child("name").duplicate(name));
        }
        seen.push(name);
    }
}
