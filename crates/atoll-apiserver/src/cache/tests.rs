//! The ring and the revision of lists.

use serde_json::json;

use super::*;

fn cache() -> ResourceCache {
    ResourceCache::new(atoll_api::kinds::find("", "v1", "configmaps").unwrap().into())
}

fn entry(cache: &ResourceCache, key: &str, revision: Revision, bytes: usize) -> Entry {
    let object = json!({"metadata": {"labels": {"x": "1"}}, "data": {"a": "x".repeat(bytes)}});
    Entry::new(cache.row(), key, revision, object).unwrap()
}

impl ResourceCache {
    fn put(&self, entry: Entry) {
        self.apply(vec![CacheWrite::Put(entry)]);
    }

    fn delete(&self, key: &str, revision: Revision) {
        self.apply(vec![CacheWrite::Delete { key: key.to_owned(), revision }]);
    }
}

#[test]
fn a_revision_of_many_objects_is_read_whole() {
    let cache = cache();
    cache.put(entry(&cache, "a/first", 1, 1));
    let count = READ_CHANGES_MAX * 2;
    let many = (0..count).map(|at| entry(&cache, &format!("a/{at}"), 2, 1));
    cache.apply(many.map(CacheWrite::Put).collect());
    cache.put(entry(&cache, "a/last", 3, 1));
    let mut seen = 0;
    let mut position = 0;
    while let Some(last) = cache.changes_after(position).unwrap().last() {
        seen += cache.changes_after(position).unwrap().len();
        position = last.revision;
    }
    assert_eq!((seen, position), (count + 2, 3));
}

#[test]
fn a_list_is_exact_at_its_revision() {
    let cache = cache();
    cache.reset(vec![entry(&cache, "a/x", 3, 1)], 5);
    assert_eq!(cache.list_at("", 4).1, 5);
    assert_eq!(cache.list_at("", 9).1, 9, "nothing of ours happened up to 9");
    cache.put(entry(&cache, "a/y", 11, 1));
    let (entries, revision) = cache.list_at("a", 9);
    assert_eq!((entries.len(), revision), (2, 11));
}

#[test]
fn a_namespace_is_not_a_prefix_of_another() {
    let cache = cache();
    for (key, revision) in [("a/x", 1), ("a-b/x", 2), ("ab/x", 3)] {
        cache.put(entry(&cache, key, revision, 1));
    }
    let keys: Vec<String> = cache.list("a").iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(keys, ["a/x"]);
}

#[test]
fn changes_come_in_order_and_remember_what_was() {
    let cache = cache();
    cache.put(entry(&cache, "a/x", 2, 1));
    cache.put(entry(&cache, "a/x", 4, 2));
    cache.delete("a/x", 7);
    let changes = cache.changes_after(2).unwrap();
    let seen: Vec<_> = changes.iter().map(|one| (one.kind, one.revision)).collect();
    assert_eq!(seen, [(ChangeKind::Modified, 4), (ChangeKind::Deleted, 7)]);
    let last = changes.last().unwrap();
    assert!(String::from_utf8_lossy(&last.entry.json).contains("\"resourceVersion\":\"7\""));
    assert_eq!(last.old.as_ref().map(|old| old.revision), Some(4));
}

#[test]
fn the_ring_forgets_and_says_how_far_it_reaches() {
    let cache = cache();
    cache.reset(Vec::new(), 1);
    for revision in 2..=12 {
        cache.put(entry(&cache, "a/x", revision, 1 << 20));
    }
    let too_old = cache.changes_after(1).unwrap_err();
    assert_eq!(too_old.asked, 1);
    assert!(too_old.oldest > 1);
    let from = too_old.oldest;
    assert_eq!(cache.changes_after(from).unwrap().first().unwrap().revision, from + 1);
}
