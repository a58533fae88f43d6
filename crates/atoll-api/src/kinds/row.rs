//! Rows as they are passed around: those of the table, and those that come at run time.

use std::ops::Deref;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::ResourceInfo;

/// A row that is cheap to clone: one of the table, or one that a custom resource made.
#[derive(Debug, Clone)]
pub enum Row {
    Fixed(&'static ResourceInfo),
    Shared(Arc<ResourceInfo>),
}

impl Deref for Row {
    type Target = ResourceInfo;

    fn deref(&self) -> &ResourceInfo {
        match self {
            Self::Fixed(resource) => resource,
            Self::Shared(resource) => resource,
        }
    }
}

impl From<&'static ResourceInfo> for Row {
    fn from(resource: &'static ResourceInfo) -> Self {
        Self::Fixed(resource)
    }
}

impl From<ResourceInfo> for Row {
    fn from(resource: ResourceInfo) -> Self {
        Self::Shared(Arc::new(resource))
    }
}

/// Short names or categories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Words {
    Fixed(&'static [&'static str]),
    Owned(Vec<String>),
}

impl Words {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Fixed(words) => words.is_empty(),
            Self::Owned(words) => words.is_empty(),
        }
    }

    #[must_use]
    pub fn to_vec(&self) -> Vec<&str> {
        match self {
            Self::Fixed(words) => words.to_vec(),
            Self::Owned(words) => words.iter().map(String::as_str).collect(),
        }
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.to_vec())
    }
}
