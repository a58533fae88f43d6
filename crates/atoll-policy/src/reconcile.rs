//! Bringing a built-in role or binding up to date without undoing what an administrator
//! added: missing rules and subjects are put back, nothing is taken away.

use serde_json::{Map, Value};

use crate::covers::covers;
use crate::rule::Rule;

/// `"false"` on an object keeps us away from it.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// What has to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Update(Value),
    /// A binding whose roleRef differs: that field cannot change.
    Recreate(Value),
}

/// The difference between a built-in object and the stored one; `None` when there is none.
#[must_use]
pub fn reconcile(expected: &Value, stored: &Value) -> Option<Step> {
    if stored["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    let mut new = stored.clone();
    let mut changed = merge(&mut new, expected, "annotations");
    changed |= merge(&mut new, expected, "labels");
    if expected.get("roleRef").is_some() {
        if expected["roleRef"] != stored["roleRef"] {
            return Some(Step::Recreate(expected.clone()));
        }
        changed |= add_subjects(&mut new, expected);
    } else if expected.get("aggregationRule").is_some() {
        changed |= add_selectors(&mut new, expected);
    } else {
        changed |= add_rules(&mut new, expected);
    }
    changed.then_some(Step::Update(new))
}

fn merge(new: &mut Value, expected: &Value, field: &str) -> bool {
    let Some(wanted) = expected["metadata"][field].as_object() else { return false };
    let own = &mut new["metadata"][field];
    if !own.is_object() {
        *own = Value::Object(Map::new());
    }
    let mut changed = false;
    for (key, value) in wanted {
        if own.get(key) != Some(value) {
            own[key] = value.clone();
            changed = true;
        }
    }
    changed
}

fn add_rules(new: &mut Value, expected: &Value) -> bool {
    let missing = covers(&Rule::list(new), &Rule::list(expected));
    append(new, "rules", missing.iter().map(Rule::to_value).collect())
}

fn add_subjects(new: &mut Value, expected: &Value) -> bool {
    append(new, "subjects", absent(&new["subjects"], &expected["subjects"]))
}

fn add_selectors(new: &mut Value, expected: &Value) -> bool {
    let missing = absent(
        &new["aggregationRule"]["clusterRoleSelectors"],
        &expected["aggregationRule"]["clusterRoleSelectors"],
    );
    if missing.is_empty() {
        return false;
    }
    if !new["aggregationRule"].is_object() {
        new["aggregationRule"] = Value::Object(Map::new());
    }
    append(&mut new["aggregationRule"], "clusterRoleSelectors", missing)
}

fn absent(own: &Value, wanted: &Value) -> Vec<Value> {
    let own = own.as_array().map_or(&[][..], Vec::as_slice);
    let wanted = wanted.as_array().map_or(&[][..], Vec::as_slice);
    wanted.iter().filter(|item| !own.contains(item)).cloned().collect()
}

fn append(object: &mut Value, field: &str, missing: Vec<Value>) -> bool {
    if missing.is_empty() {
        return false;
    }
    match object[field].as_array_mut() {
        Some(list) => list.extend(missing),
        None => object[field] = Value::from(missing),
    }
    true
}
