//! Conditions in CEL under which a webhook is called.

use serde_json::Value;

use super::super::faults;
use crate::access::Access as _;
use crate::cel::Type;
use crate::cel::admission::{Declared, compile, env};
use crate::field::{Error, Path};
use crate::names;

/// Conditions of one webhook.
const CONDITIONS_MAX: usize = 64;

pub(super) fn match_conditions(at: &Path, conditions: &[Value], errors: &mut Vec<Error>) {
    if conditions.len() > CONDITIONS_MAX {
        errors.push(at.too_many(conditions.len(), CONDITIONS_MAX));
    }
    if conditions.is_empty() {
        return;
    }
    let env = env(Declared { authorizer: true, ..Declared::default() });
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        let name = condition.text("name");
        let source = condition.text("expression").trim();
        if source.is_empty() {
            errors.push(at.child("expression").required(""));
        } else if let Err(text) = compile(&env, source, &[Type::Bool]) {
            errors.push(at.child("expression").invalid(source, text));
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
