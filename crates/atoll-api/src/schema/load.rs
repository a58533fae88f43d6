//! The generated table, parsed on first use (about 800 definitions in a few milliseconds).

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use super::{Definition, Field, GroupVersionKind, ListKind, Merge, Name, SchemaId, Special, Type};

static TABLE: LazyLock<Table> = LazyLock::new(|| parse(include_str!("table.txt")));

/// Types that belong to no one group: options, Table, PartialObjectMetadata.
const META_GROUP: &str = "meta.k8s.io";

struct Table {
    definitions: Vec<Definition>,
    by_name: HashMap<&'static str, SchemaId>,
    by_gvk: HashMap<(&'static str, &'static str, &'static str), SchemaId>,
}

/// The built-in definition of that name (`io.k8s.api.core.v1.PodSpec`).
#[must_use]
pub fn by_name(definition: &str) -> Option<SchemaId> {
    TABLE.by_name.get(definition.strip_prefix("io.k8s.")?).copied()
}

/// The built-in definition of a kind.
#[must_use]
pub fn by_gvk(group: &str, version: &str, kind: &str) -> Option<SchemaId> {
    if group == META_GROUP {
        let name = format!("apimachinery.pkg.apis.meta.v1.{kind}");
        return TABLE.by_name.get(name.as_str()).copied();
    }
    TABLE.by_gvk.get(&(group, version, kind)).copied()
}

/// All built-in definitions, sorted by name.
#[must_use]
pub fn definitions() -> &'static [Definition] {
    &TABLE.definitions
}

pub(super) fn definition(id: SchemaId) -> &'static Definition {
    &TABLE.definitions[id.0 as usize]
}

fn parse(text: &'static str) -> Table {
    let headers = text.lines().filter_map(|line| line.strip_prefix('='));
    let names = headers.map(|line| line.split(' ').next().unwrap_or(line));
    let by_name: HashMap<_, _> =
        (0_u32..).map(SchemaId).zip(names).map(|(id, n)| (n, id)).collect();
    let mut definitions: Vec<Definition> = Vec::with_capacity(by_name.len());
    let mut by_gvk = HashMap::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('=') {
            let id = SchemaId(u32::try_from(definitions.len()).unwrap_or(u32::MAX));
            definitions.push(parse_header(header, id, &mut by_gvk));
        } else if !line.starts_with('#')
            && let Some(field) = parse_field(line, &by_name)
            && let Some(definition) = definitions.last_mut()
        {
            definition.fields.push(field);
        }
    }
    for definition in &mut definitions {
        definition.fields.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Table { definitions, by_name, by_gvk }
}

fn parse_header(
    line: &'static str,
    id: SchemaId,
    by_gvk: &mut HashMap<(&'static str, &'static str, &'static str), SchemaId>,
) -> Definition {
    let mut words = line.split(' ');
    let name = Name::Owned(format!("io.k8s.{}", words.next().unwrap_or("")));
    let mut definition = Definition { name, ..Definition::default() };
    for word in words {
        match word.split_once('=') {
            Some(("x", special)) => definition.special = parse_special(special),
            Some(("u", unions)) => definition.unions = Some(unions.into()),
            Some(("gvk", gvk)) => {
                let mut parts = gvk.split('/');
                let mut part = || parts.next().unwrap_or("");
                let (group, version, kind) = (part(), part(), part());
                by_gvk.insert((group, version, kind), id);
                definition.kinds.push(GroupVersionKind {
                    group: group.into(),
                    version: version.into(),
                    kind: kind.into(),
                });
            }
            _ => definition.atomic |= word == "A",
        }
    }
    definition
}

fn parse_special(word: &str) -> Option<Special> {
    Some(match word {
        "quantity" => Special::Quantity,
        "intorstring" => Special::IntOrString,
        "time" => Special::Time,
        "microtime" => Special::MicroTime,
        "raw" => Special::Raw,
        "fields" => Special::FieldsV1,
        "json" => Special::Json,
        "props-or-array" => Special::PropsOrArray,
        "props-or-bool" => Special::PropsOrBool,
        "props-or-strings" => Special::PropsOrStrings,
        _ => return None,
    })
}

fn parse_field(line: &'static str, names: &HashMap<&'static str, SchemaId>) -> Option<Field> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let ty = parse_type(words.next()?, names)?;
    let tags = words.next()?.split('.').filter_map(|tag| tag.parse().ok()).collect();
    let flags = words.next()?;
    let mut field = Field {
        name: name.into(),
        ty,
        list: ListKind::Atomic,
        atomic: false,
        merge: Merge::default(),
        merge_key: None,
        required: flags.contains('r'),
        pointer: flags.contains('p'),
        omit_empty: flags.contains('o'),
        tags,
        wrapped: flags.contains('w'),
        go_type: None,
        default: None,
        values: Vec::new(),
    };
    for word in words {
        parse_attribute(word, &mut field);
    }
    Some(field)
}

fn parse_attribute(word: &'static str, field: &mut Field) {
    match word.split_once('=') {
        // Lists are atomic unless said otherwise; that it is said matters to OpenAPI.
        None if word == "atomic" => field.atomic = true,
        None if word == "set" => field.list = ListKind::Set,
        Some(("keys", keys)) => {
            field.list = ListKind::Map(keys.split(',').map(Name::from).collect());
        }
        Some(("map", kind)) => field.atomic = kind == "atomic",
        Some(("mk", key)) => field.merge_key = Some(key.into()),
        Some(("d", json)) => field.default = serde_json::from_str(json).ok(),
        Some(("e", values)) => field.values = values.split(',').map(value).collect(),
        Some(("g", name)) => field.go_type = Some(name.into()),
        Some(("ps", strategy)) => {
            for one in strategy.split(',') {
                field.merge.merge |= one == "merge";
                field.merge.retain_keys |= one == "retainKeys";
                field.merge.replace |= one == "replace";
            }
        }
        _ => {}
    }
}

/// A value of an enumeration; `~` stands for a blank.
fn value(word: &'static str) -> Name {
    if word.contains('~') { word.replace('~', " ").into() } else { word.into() }
}

fn parse_type(word: &str, names: &HashMap<&'static str, SchemaId>) -> Option<Type> {
    if let Some(item) = word.strip_prefix('[') {
        return Some(Type::List(Arc::new(parse_type(item, names)?)));
    }
    if let Some(value) = word.strip_prefix('{') {
        return Some(Type::Map(Arc::new(parse_type(value, names)?)));
    }
    if let Some(name) = word.strip_prefix('@') {
        return names.get(name).copied().map(Type::Object);
    }
    Some(match word {
        "any" => Type::Any,
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        _ => return None,
    })
}
