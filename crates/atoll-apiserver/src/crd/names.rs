//! Which names a definition may have: those that no other definition of its group has already.

use std::sync::Arc;

use atoll_api::access::Access as _;
use serde_json::{Value, json};

/// The names that are accepted, and the conflict if there is one: reason and message.
pub(super) struct Verdict {
    pub accepted: Value,
    pub conflict: Option<(&'static str, String)>,
}

/// Judges the names that a definition asks for beside those that others have.
pub(super) fn judge(crd: &Value, others: &[Arc<Value>]) -> Verdict {
    let wanted = &crd["spec"]["names"];
    let own = crd["metadata"].text("name");
    let group = crd["spec"].text("group");
    let taken: Vec<&Value> = others
        .iter()
        .filter(|one| one["metadata"].text("name") != own && one["spec"].text("group") == group)
        .map(|one| &one["status"]["acceptedNames"])
        .collect();
    let mut accepted = crd["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({});
    }
    let mut conflict = None;
    let mut refuse = |reason: &'static str, name: &str| {
        conflict = Some((reason, format!("{name:?} is already in use")));
    };
    let resource = |name: &str| taken.iter().any(|names| is_resource(names, name));
    let kind = |name: &str| {
        let is = |names: &&Value| names.text("kind") == name || names.text("listKind") == name;
        !name.is_empty() && taken.iter().any(is)
    };
    for (field, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        match wanted.text(field) {
            name if resource(name) => refuse(reason, name),
            _ => take(&mut accepted, wanted, field),
        }
    }
    let short = wanted.items("shortNames").iter().filter_map(Value::as_str);
    match short.clone().find(|name| resource(name)) {
        Some(name) => refuse("ShortNamesConflict", name),
        None => take(&mut accepted, wanted, "shortNames"),
    }
    for (field, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        match wanted.text(field) {
            name if kind(name) => refuse(reason, name),
            _ => take(&mut accepted, wanted, field),
        }
    }
    take(&mut accepted, wanted, "categories");
    Verdict { accepted, conflict }
}

fn is_resource(names: &Value, name: &str) -> bool {
    !name.is_empty()
        && (names.text("plural") == name
            || names.text("singular") == name
            || names.items("shortNames").iter().any(|one| one == name))
}

fn take(accepted: &mut Value, wanted: &Value, field: &str) {
    let Some(accepted) = accepted.as_object_mut() else { return };
    match wanted.get(field) {
        Some(value) => accepted.insert(field.to_owned(), value.clone()),
        None => accepted.remove(field),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(name: &str, names: Value) -> Arc<Value> {
        Arc::new(json!({"metadata": {"name": name}, "spec": {"group": "x.io", "names": names},
            "status": {"acceptedNames": names}}))
    }

    #[test]
    fn a_name_that_another_definition_has_is_refused() {
        let first = crd("as.x.io", json!({"plural": "as", "kind": "A", "shortNames": ["q"]}));
        let second = crd("bs.x.io", json!({"plural": "bs", "kind": "A", "shortNames": ["z"]}));
        let verdict = judge(&second, &[first.clone(), second.clone()]);
        assert_eq!(verdict.conflict, Some(("KindConflict", "\"A\" is already in use".to_owned())));
        assert!(judge(&first, std::slice::from_ref(&first)).conflict.is_none());
    }
}
