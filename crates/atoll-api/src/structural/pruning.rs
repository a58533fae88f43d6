//! Drops fields that a schema does not specify.

use serde_json::{Map, Value};

use super::{Additional, Node};
use crate::field::Path;
use crate::schema::{self, TypeError};

/// Fields of an object that belong to every object.
const COMMON: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Paths of unknown fields: `spec.list[0].foo`.
    pub unknown: Vec<String>,
}

/// Prunes an object and brings its metadata, and that of objects embedded in it, into form.
///
/// # Errors
///
/// When metadata is not of its type.
pub fn prune(node: &Node, object: &mut Value) -> Result<Pruned, TypeError> {
    let mut walk = Walk { pruned: Pruned::default(), path: String::new() };
    walk.value(Some(node), object, true)?;
    Ok(walk.pruned)
}

struct Walk {
    pruned: Pruned,
    path: String,
}

impl Walk {
    fn value(
        &mut self,
        node: Option<&Node>,
        value: &mut Value,
        root: bool,
    ) -> Result<(), TypeError> {
        let length = self.path.len();
        match value {
            Value::Object(map) => self.map(node, map, root)?,
            Value::Array(items) => {
                let node = node.and_then(|node| node.items.as_deref());
                for (index, item) in items.iter_mut().enumerate() {
                    self.path.push_str(&format!("[{index}]"));
                    self.value(node, item, false)?;
                    self.path.truncate(length);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn map(
        &mut self,
        node: Option<&Node>,
        map: &mut Map<String, Value>,
        root: bool,
    ) -> Result<(), TypeError> {
        let object = root || node.is_some_and(|node| node.embedded);
        let preserve = node.is_some_and(|node| node.preserve);
        let any = node.is_some_and(|node| matches!(node.additional, Additional::Any));
        let mut dropped = Vec::new();
        for (key, value) in map.iter_mut() {
            let length = self.enter(key);
            let field = node.and_then(|node| node.field(key));
            if object && COMMON.contains(&key.as_str()) {
                if key == "metadata" {
                    self.metadata(value)?;
                }
            } else if field.is_some() {
                self.value(field, value, false)?;
            } else if any {
                self.value(None, value, false)?;
            } else if !preserve {
                self.pruned.unknown.push(self.path.clone());
                dropped.push(key.clone());
            }
            self.path.truncate(length);
        }
        for key in &dropped {
            map.remove(key);
        }
        Ok(())
    }

    fn metadata(&mut self, value: &mut Value) -> Result<(), TypeError> {
        const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        let (Some(meta), true) = (schema::by_name(META), value.is_object()) else { return Ok(()) };
        // Of an object within another it is said where it is.
        let sent = (self.path != "metadata").then(|| value.clone());
        let unknown = schema::prune_and_check(meta, value).map_err(|error| match sent {
            Some(sent) => {
                let at = Path::new(&self.path);
                TypeError::Value(at.invalid(sent, error.to_string()).to_string())
            }
            None => error,
        })?;
        crate::defaults::normalise_metadata(value);
        let paths = unknown.into_iter().map(|field| format!("{}.{field}", self.path));
        self.pruned.unknown.extend(paths);
        Ok(())
    }

    fn enter(&mut self, key: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        length
    }
}
