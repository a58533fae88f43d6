//! Sets of fields as a trie of path elements, in the notation of `fieldsV1`.
//!
//! Elements are kept as they are written: `f:name`, `k:{"name":"a"}`, `v:"x"`, `i:0`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Nesting that is read from a client's `fieldsV1`.
const DEPTH_MAX: usize = 120;

/// Fields that are a member or lead to one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub(super) member: bool,
    pub(super) children: BTreeMap<String, FieldSet>,
}

pub(super) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The element of a list item that is known by keys; keys are written in their order.
pub(super) fn key(pairs: &[(&str, &Value)]) -> String {
    let mut pairs: Vec<_> = pairs.iter().collect();
    pairs.sort_by_key(|(name, _)| *name);
    let written = pairs.iter().map(|(name, value)| format!("{}:{value}", Value::from(*name)));
    format!("k:{{{}}}", written.collect::<Vec<_>>().join(","))
}

pub(super) fn value(value: &Value) -> String {
    format!("v:{value}")
}

impl FieldSet {
    /// Reads a `fieldsV1`. `None` when it is none.
    #[must_use]
    pub fn parse(fields: &Value) -> Option<Self> {
        Self::parse_at(fields, 0)
    }

    fn parse_at(fields: &Value, depth: usize) -> Option<Self> {
        let fields = fields.as_object().filter(|_| depth <= DEPTH_MAX)?;
        let mut set = Self { member: fields.is_empty() && depth > 0, children: BTreeMap::new() };
        for (element, below) in fields {
            if element == "." {
                set.member = true;
                continue;
            }
            let child = Self::parse_at(below, depth + 1)?;
            set.children.insert(normalized(element)?, child);
        }
        Some(set)
    }

    /// As it stands in `fieldsV1`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        if self.member && !self.children.is_empty() {
            fields.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, child) in &self.children {
            fields.insert(element.clone(), child.to_json());
        }
        Value::Object(fields)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    pub(super) fn insert(&mut self, path: &[String]) {
        let mut node = self;
        for element in path {
            node = node.children.entry(element.clone()).or_default();
        }
        node.member = true;
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.add(other);
        all
    }

    fn add(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, child) in &other.children {
            self.children.entry(element.clone()).or_default().add(child);
        }
    }

    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.children.iter().filter_map(|(element, child)| {
            let common = child.intersection(other.children.get(element)?);
            (!common.is_empty()).then(|| (element.clone(), common))
        });
        Self { member: self.member && other.member, children: both.collect() }
    }

    /// Without the members of `other`, each for itself.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let rest = self.children.iter().filter_map(|(element, child)| {
            let rest = match other.children.get(element) {
                Some(less) => child.difference(less),
                None => child.clone(),
            };
            (!rest.is_empty()).then(|| (element.clone(), rest))
        });
        Self { member: self.member && !other.member, children: rest.collect() }
    }

    /// Without the members of `other` and all that is below them.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        if other.member {
            return Self::default();
        }
        let rest = self.children.iter().filter_map(|(element, child)| {
            let rest = match other.children.get(element) {
                Some(less) => child.recursive_difference(less),
                None => child.clone(),
            };
            (!rest.is_empty()).then(|| (element.clone(), rest))
        });
        Self { member: self.member, children: rest.collect() }
    }

    /// The members as people read them: `.spec.containers[name="web"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.paths_into("", &mut paths);
        paths
    }

    fn paths_into(&self, prefix: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(prefix.to_owned());
        }
        for (element, child) in &self.children {
            child.paths_into(&format!("{prefix}{}", readable(element)), paths);
        }
    }
}

/// `.image`, `[name="web"]`, `[="x"]`, `[0]`.
pub(super) fn readable(element: &str) -> String {
    match element.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("i:", index)) => format!("[{index}]"),
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let mut pairs: Vec<_> = keys.iter().collect();
            pairs.sort_by_key(|(name, _)| *name);
            let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
            format!("[{}]", pairs.collect::<Vec<_>>().join(","))
        }
        _ => element.to_owned(),
    }
}

/// An element in the one way in which it is written here.
fn normalized(element: &str) -> Option<String> {
    match element.split_at_checked(2)? {
        ("f:", _) => Some(element.to_owned()),
        ("v:", json) => serde_json::from_str::<Value>(json).ok().map(|one| value(&one)),
        ("i:", index) => index.parse::<usize>().ok().map(|index| format!("i:{index}")),
        ("k:", json) => {
            let keys: Map<String, Value> = serde_json::from_str(json).ok()?;
            let pairs: Vec<_> = keys.iter().map(|(name, value)| (name.as_str(), value)).collect();
            Some(key(&pairs))
        }
        _ => None,
    }
}

/// Fields that identify the object, or that the server alone sets: nobody owns them.
pub(super) fn identity() -> &'static FieldSet {
    static IDENTITY: LazyLock<FieldSet> = LazyLock::new(|| {
        let mut set = FieldSet::default();
        for path in ["apiVersion", "kind", "metadata"] {
            set.insert(&[field(path)]);
        }
        for name in [
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        ] {
            set.insert(&[field("metadata"), field(name)]);
        }
        set
    });
    &IDENTITY
}

/// Fields that a write of this part of the object cannot change, and so does not own.
pub(super) fn reset_by(subresource: &str) -> &'static FieldSet {
    static MAIN: LazyLock<FieldSet> = LazyLock::new(|| {
        let mut set = FieldSet::default();
        set.insert(&[field("status")]);
        set
    });
    static STATUS: LazyLock<FieldSet> = LazyLock::new(|| {
        let mut set = FieldSet::default();
        set.insert(&[field("spec")]);
        set.insert(&[field("metadata"), field("labels")]);
        set
    });
    if subresource == "status" { &STATUS } else { &MAIN }
}
