//! The shapes of API types: a table of the built-in ones, and types made at run time.
//!
//! A [`Definition`] lists the fields of one type with all that the walkers need: types, list
//! and map semantics, patch strategies, protobuf numbers. Built-in definitions are parsed
//! once from a generated table; custom resources bring their own.

mod check;
mod load;
mod zeros;

use std::{borrow::Cow, sync::Arc};

pub use check::{TypeError, check_type, prune_and_check};
pub use load::{by_gvk, by_name, definitions};
pub use zeros::drop_zeros;

use crate::kinds;

/// Names a built-in definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SchemaId(pub(crate) u32);

impl SchemaId {
    #[must_use]
    pub fn definition(self) -> &'static Definition {
        load::definition(self)
    }
}

impl From<SchemaId> for &Definition {
    fn from(id: SchemaId) -> Self {
        id.definition()
    }
}

/// Whether a built-in type is known by what stands in an object.
#[must_use]
pub fn by_gvk_text(api_version: &str, kind: &str) -> bool {
    by_type(api_version, kind).is_some()
}

/// The built-in type by what stands in an object.
#[must_use]
pub fn by_type(api_version: &str, kind: &str) -> Option<SchemaId> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    by_gvk(group, version, kind)
}

/// A name that is static for built-in types and owned for others.
pub type Name = Cow<'static, str>;

/// One type with fields, or one whose JSON is special.
#[derive(Debug, Clone, Default)]
pub struct Definition {
    /// As in OpenAPI: `io.k8s.api.core.v1.PodSpec`.
    pub name: Name,
    /// Set for types whose JSON is not that of their fields.
    pub special: Option<Special>,
    /// Whether server-side apply takes the whole value as one.
    pub atomic: bool,
    pub kinds: Vec<GroupVersionKind>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// `x-kubernetes-unions`, as JSON.
    pub unions: Option<Name>,
    /// Fields that no schema names are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupVersionKind {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
}

impl GroupVersionKind {
    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        kinds::api_version(&self.group, &self.version)
    }
}

impl Definition {
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        let found = self.fields.binary_search_by(|field| field.name.as_ref().cmp(name));
        found.ok().map(|index| &self.fields[index])
    }

    /// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
    #[must_use]
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.PodSpec`: package and name, as Go prints the type.
    #[must_use]
    pub fn go_name(&self) -> &str {
        let mut dots = self.name.rmatch_indices('.');
        dots.next();
        dots.next().map_or(&self.name, |(at, _)| &self.name[at + 1..])
    }
}

#[derive(Debug, Clone)]
pub struct Field {
    pub name: Name,
    pub ty: Type,
    pub list: ListKind,
    /// The schema says that server-side apply takes the field's map, object or list as one.
    pub atomic: bool,
    pub merge: Merge,
    pub merge_key: Option<Name>,
    pub required: bool,
    /// Go has a pointer here, so a zero value differs from an absent one.
    pub pointer: bool,
    /// Go leaves a zero value out of JSON.
    pub omit_empty: bool,
    /// Protobuf field numbers, from the outer message inwards where Go embeds a struct;
    /// empty when protobuf does not carry the field.
    pub tags: Vec<u32>,
    /// Protobuf has a message with one repeated field where JSON has a list.
    pub wrapped: bool,
    /// What Go calls the type where it has a name of its own (`v1.Protocol`).
    pub go_type: Option<Name>,
    /// What a custom resource's schema gives when the field is absent.
    pub default: Option<serde_json::Value>,
    /// What a text may be, or each text of a list or map; empty where it may be anything. OpenAPI
    /// says so, and nothing is checked by it.
    pub values: Vec<Name>,
}

/// Server-side apply's view of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// Items are known by these fields.
    Map(Vec<Name>),
}

/// Strategic merge patch's view of a list or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merge {
    /// Items of a list are merged rather than replaced.
    pub merge: bool,
    /// The patch names the keys that stay (`$retainKeys`).
    pub retain_keys: bool,
    /// An object is replaced rather than merged.
    pub replace: bool,
}

#[derive(Debug, Clone)]
pub enum Type {
    /// Any JSON.
    Any,
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    Object(SchemaId),
    /// A type made at run time.
    Inline(Arc<Definition>),
    List(Arc<Type>),
    Map(Arc<Type>),
}

impl Type {
    #[must_use]
    pub fn definition(&self) -> Option<&Definition> {
        match self {
            Self::Object(id) => Some(id.definition()),
            Self::Inline(definition) => Some(definition),
            _ => None,
        }
    }

    #[must_use]
    pub fn special(&self) -> Option<Special> {
        self.definition().and_then(|definition| definition.special)
    }
}

/// Types whose JSON is not that of their fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// `runtime.RawExtension`: an object of some other type.
    Raw,
    FieldsV1,
    Json,
    PropsOrArray,
    PropsOrBool,
    PropsOrStrings,
}

#[cfg(test)]
mod tests;
