//! A custom resource's schema in the form that server-side apply walks along.

use std::sync::Arc;

use super::{Additional, List, Node};
use crate::schema::{self, Definition, Field, ListKind, Merge, Name, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Node {
    /// The type of a whole object.
    #[must_use]
    pub fn definition(&self, name: &str) -> Definition {
        Definition { name: Name::Owned(name.to_owned()), ..self.object(true) }
    }

    fn object(&self, whole: bool) -> Definition {
        let mut fields: Vec<Field> =
            self.properties.iter().map(|(name, node)| node.as_field(name)).collect();
        if whole {
            fields.retain(|field| !matches!(&*field.name, "apiVersion" | "kind" | "metadata"));
            fields.push(field("apiVersion", Type::Any));
            fields.push(field("kind", Type::Any));
            if let Some(meta) = schema::by_name(META) {
                fields.push(Field { pointer: false, ..field("metadata", Type::Object(meta)) });
            }
        }
        fields.sort_by(|one, other| one.name.cmp(&other.name));
        let preserve_unknown = self.preserve || matches!(self.additional, Additional::Any);
        Definition { atomic: self.atomic, fields, preserve_unknown, ..Definition::default() }
    }

    fn as_field(&self, name: &str) -> Field {
        let list = match &self.list {
            List::Atomic => ListKind::Atomic,
            List::Set => ListKind::Set,
            List::Map(keys) => ListKind::Map(keys.iter().cloned().map(Name::Owned).collect()),
        };
        let default = self.default.clone();
        Field { list, atomic: self.atomic, default, ..field(name, self.as_type()) }
    }

    fn as_type(&self) -> Type {
        match (self.ty.as_str(), &self.additional) {
            _ if self.int_or_string => Type::Any,
            ("object", Additional::Node(node)) if self.properties.is_empty() && !self.embedded => {
                Type::Map(Arc::new(node.as_type()))
            }
            ("object", _) => Type::Inline(Arc::new(self.object(self.embedded))),
            ("array", _) => {
                let item = self.items.as_deref().map_or(Type::Any, Self::as_type);
                Type::List(Arc::new(item))
            }
            // Whatever stands there decides by itself.
            ("", _) if self.preserve => Type::Inline(Arc::new(self.object(self.embedded))),
            _ => Type::Any,
        }
    }
}

fn field(name: &str, ty: Type) -> Field {
    Field {
        name: Name::Owned(name.to_owned()),
        ty,
        list: ListKind::Atomic,
        atomic: false,
        merge: Merge::default(),
        merge_key: None,
        required: false,
        pointer: true,
        omit_empty: true,
        tags: Vec::new(),
        wrapped: false,
        go_type: None,
        default: None,
        values: Vec::new(),
    }
}
