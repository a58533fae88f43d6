//! The objects of one kind by key and by index; a plain map with no I/O.

use kube::ResourceExt;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// Namespace (empty for cluster-wide kinds) and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: ResourceExt>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What happened to one object. Both sides are present on an update.
#[derive(Debug)]
pub struct Change<'a, K> {
    pub old: Option<&'a Arc<K>>,
    pub new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The newest known state, which for a deletion is the last one seen.
    pub fn object(&self) -> Option<&'a Arc<K>> {
        self.new.or(self.old)
    }
}

pub(crate) type IndexFn<K> = fn(&K) -> Vec<String>;

/// The function that gives an object its values, and the keys by value.
type Index<K> = (IndexFn<K>, HashMap<String, BTreeSet<Key>>);

/// Objects by key, and by each of the indexes it was made with.
pub struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    indexes: Vec<Index<K>>,
}

impl<K: ResourceExt> Cache<K> {
    pub fn new(indexes: &[IndexFn<K>]) -> Self {
        let indexes = indexes.iter().map(|index| (*index, HashMap::new())).collect();
        Self { objects: BTreeMap::new(), indexes }
    }

    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    pub fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<K>> {
        self.objects
            .range(Key::new(namespace, "")..)
            .take_while(move |(key, _)| key.namespace == namespace)
            .map(|(_, object)| object)
    }

    /// The objects for which index `index` gave `value`, in key order.
    pub fn indexed(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        let keys = self.indexes.get(index).and_then(|(_, by_value)| by_value.get(value));
        keys.into_iter().flatten().filter_map(|key| self.objects.get(key).cloned()).collect()
    }

    /// Stores `object` and returns what stood there before.
    pub fn insert(&mut self, object: Arc<K>) -> Option<Arc<K>> {
        let key = Key::of(object.as_ref());
        let old = self.remove(&key);
        for (index, by_value) in &mut self.indexes {
            for value in index(&object) {
                by_value.entry(value).or_default().insert(key.clone());
            }
        }
        self.objects.insert(key, object);
        old
    }

    pub fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for (index, by_value) in &mut self.indexes {
            for value in index(&old) {
                if let Some(keys) = by_value.get_mut(&value) {
                    keys.remove(key);
                    if keys.is_empty() {
                        by_value.remove(&value);
                    }
                }
            }
        }
        Some(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::api::ObjectMeta;

    fn pod(name: &str, node: &str) -> Arc<Pod> {
        let metadata = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            ..ObjectMeta::default()
        };
        let spec = k8s_openapi::api::core::v1::PodSpec {
            node_name: Some(node.into()),
            ..Default::default()
        };
        Arc::new(Pod { metadata, spec: Some(spec), ..Pod::default() })
    }

    fn by_node(pod: &Pod) -> Vec<String> {
        pod.spec.iter().filter_map(|spec| spec.node_name.clone()).collect()
    }

    #[test]
    fn an_index_follows_an_object_that_moves() {
        let mut cache = Cache::new(&[by_node as IndexFn<Pod>]);
        cache.insert(pod("a", "node-1"));
        cache.insert(pod("a", "node-2"));
        assert!(cache.indexed(0, "node-1").is_empty());
        assert_eq!(cache.indexed(0, "node-2").len(), 1);
        cache.remove(&Key::new("default", "a"));
        assert!(cache.indexed(0, "node-2").is_empty());
    }

    #[test]
    fn a_namespace_does_not_show_its_neighbours() {
        let mut cache = Cache::new(&[]);
        cache.insert(pod("a", "n"));
        assert_eq!(cache.in_namespace("default").count(), 1);
        assert_eq!(cache.in_namespace("defaul").count(), 0);
        assert_eq!(cache.in_namespace("default0").count(), 0);
    }
}
