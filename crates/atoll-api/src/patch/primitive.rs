//! Lists of plain values in strategic merge patches, and the order of lists.

use serde_json::Value;

/// Adds what is not there yet.
pub(super) fn merge(list: &mut Vec<Value>, patch: &[Value]) {
    for item in patch {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

pub(super) fn delete(list: &mut Vec<Value>, delete: &[Value]) {
    list.retain(|item| !delete.contains(item));
}

/// Brings a list into the order that `$setElementOrder` states.
///
/// `same` tells whether an item is the one that an entry of the order means. Items that the
/// order does not name (the server has them, the client did not know them) keep their place
/// relative to the items around them.
pub(super) fn reorder(
    list: &mut Vec<Value>,
    order: &[Value],
    before: &[Value],
    same: impl Fn(&Value, &Value) -> bool,
) {
    let place = |item: &Value| order.iter().position(|one| same(item, one));
    let (mut named, unnamed): (Vec<Value>, Vec<Value>) =
        list.drain(..).partition(|item| place(item).is_some());
    named.sort_by_key(|item| place(item));
    let origin = |item: &Value| before.iter().position(|one| same_item(one, item, &same));
    let mut named = named.into_iter().peekable();
    let mut unnamed = unnamed.into_iter().peekable();
    while let (Some(left), Some(right)) = (named.peek(), unnamed.peek()) {
        // Where both were in the old list, its order decides; new items come first.
        let unnamed_first = match (origin(left), origin(right)) {
            (Some(left), Some(right)) => right < left,
            _ => false,
        };
        list.extend(if unnamed_first { unnamed.next() } else { named.next() });
    }
    list.extend(named);
    list.extend(unnamed);
}

fn same_item(old: &Value, item: &Value, same: &impl Fn(&Value, &Value) -> bool) -> bool {
    same(old, item)
}
