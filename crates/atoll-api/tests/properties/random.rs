//! Objects that bytes decide, along the schema table: every field can come, and every value
//! has the form in which it is stored.

use atoll_api::schema::{Definition, Field, ListKind, Special, Type};
use serde_json::{Map, Value, json};

/// Objects within objects; deeper ones have no fields.
const DEPTH_MAX: usize = 7;

/// Bytes that decide; when they are used up nothing more comes.
pub(crate) struct Source<'a> {
    bytes: &'a [u8],
    depth: usize,
}

/// The type of a list's items.
pub(crate) fn item(ty: &Type) -> Option<&Type> {
    match ty {
        Type::List(item) => Some(item),
        _ => None,
    }
}

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, depth: 0 }
    }

    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        *first
    }

    fn pick<'v, T: ?Sized>(&mut self, of: &[&'v T]) -> &'v T {
        of[usize::from(self.next()) % of.len()]
    }

    pub(crate) fn object(&mut self, definition: &Definition) -> Value {
        let mut map = Map::new();
        self.depth += 1;
        for field in &definition.fields {
            let carried = !field.tags.is_empty() && !matches!(field.ty, Type::Any);
            // The parts of an object, half of what is right below, and one in four further down.
            let one_in = [1, 2, 4][self.depth.min(3) - 1];
            let there = self.next();
            if carried && self.depth <= DEPTH_MAX && there % one_in == one_in - 1 && there > 0 {
                map.insert(field.name.to_string(), self.field(field));
            }
        }
        self.depth -= 1;
        Value::Object(map)
    }

    fn field(&mut self, field: &Field) -> Value {
        let Type::List(item) = &field.ty else { return self.value(&field.ty) };
        let count = usize::from(self.next() % 3) + 1;
        let mut items: Vec<Value> = (0..count).map(|_| self.value(item)).collect();
        let mut keys: Vec<&str> = field.merge_key.iter().map(|key| &**key).collect();
        if let ListKind::Map(own) = &field.list {
            keys.extend(own.iter().map(|key| &**key));
        }
        let known = item.definition().filter(|one| one.special.is_none());
        match known {
            Some(definition) if !keys.is_empty() => distinct(definition, &keys, &mut items),
            None if field.list == ListKind::Set || field.merge.merge => {
                items.sort_by_key(ToString::to_string);
                items.dedup();
            }
            _ => {}
        }
        Value::Array(items)
    }

    fn value(&mut self, ty: &Type) -> Value {
        match ty {
            Type::Any => json!({"any": 1}),
            Type::String => json!(self.pick(&["", "a", "b", "c/d", "e.f", "~g", "yes"])),
            Type::Bool => json!(self.next() % 2 == 1),
            Type::Int32 => json!(i32::from(self.next()) - 100),
            Type::Int64 => json!((i64::from(self.next()) - 100) << 33),
            Type::Double => json!(f64::from(self.next()) + 0.5),
            Type::Bytes => json!(self.pick(&["AAEC", "/w==", "YQ=="])),
            Type::List(item) => {
                let count = self.next() % 3;
                (0..count).map(|_| self.value(item)).collect()
            }
            Type::Map(value) => {
                let keys = ["k", "l/m", "n~o"];
                let kept: Vec<&str> = keys.into_iter().filter(|_| self.next() % 2 == 1).collect();
                kept.into_iter().map(|key| (key.to_owned(), self.value(value))).collect()
            }
            Type::Object(_) | Type::Inline(_) => {
                let definition = ty.definition().unwrap();
                match definition.special {
                    Some(special) => self.special(special),
                    None => self.object(definition),
                }
            }
        }
    }

    fn special(&mut self, special: Special) -> Value {
        let pick = self.next() % 2 == 1;
        let object = if pick { json!({"a": [1, "b"]}) } else { json!({"c": {"d": true}}) };
        match special {
            Special::Quantity => json!(if pick { "100m" } else { "3Gi" }),
            Special::IntOrString => {
                if pick {
                    json!(7)
                } else {
                    json!("25%")
                }
            }
            Special::Time => json!("2026-01-02T03:04:05Z"),
            Special::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
            Special::Raw => json!({"apiVersion": "x/v1", "kind": "X", "spec": object}),
            Special::FieldsV1 => json!({"f:a": {"f:b": {}}}),
            Special::Json => object,
            Special::PropsOrArray | Special::PropsOrBool => json!({"type": "string"}),
            Special::PropsOrStrings => {
                if pick {
                    json!(["a"])
                } else {
                    json!({"type": "object"})
                }
            }
        }
    }
}

/// Gives each item of a list all its keys, and no two the same.
fn distinct(definition: &Definition, keys: &[&str], items: &mut [Value]) {
    for (index, item) in items.iter_mut().enumerate() {
        for (place, key) in keys.iter().enumerate() {
            let number = if place == 0 { index + 1 } else { 1 };
            let Some(field) = definition.field(key) else { continue };
            // The first key decides; where it is named twice it keeps what it has.
            if keys[..place].contains(key) {
                continue;
            }
            item[*key] = match &field.ty {
                Type::Int32 | Type::Int64 => json!(number),
                Type::Bool => json!(true),
                _ => json!(format!("k{number}")),
            };
        }
    }
}

/// Without what Go cannot tell from an absent field.
pub(crate) fn without_zeros(definition: &Definition, value: &Value) -> Value {
    let Value::Object(map) = value else { return value.clone() };
    let mut kept = Map::new();
    for (key, value) in map {
        let field = definition.field(key);
        let value = field.map_or_else(|| value.clone(), |field| of_type(&field.ty, value));
        let pointer = field.is_some_and(|field| field.pointer);
        if !is_zero(&value) || (pointer && !value.is_null()) {
            kept.insert(key.clone(), value);
        }
    }
    Value::Object(kept)
}

fn of_type(ty: &Type, value: &Value) -> Value {
    match (ty, value) {
        (Type::List(item), Value::Array(items)) => {
            items.iter().map(|one| of_type(item, one)).collect()
        }
        (Type::Map(item), Value::Object(map)) => {
            map.iter().map(|(key, one)| (key.clone(), of_type(item, one))).collect()
        }
        _ => match ty.definition().filter(|definition| definition.special.is_none()) {
            Some(definition) => without_zeros(definition, value),
            // An amount that is absent is none of it.
            None if ty.special() == Some(Special::Quantity) && value == "0" => json!(""),
            None => value.clone(),
        },
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
