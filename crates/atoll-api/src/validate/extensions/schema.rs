//! Schemas of custom resources: structural, and without what is not supported.

use serde_json::Value;

use super::{defaults, expressions};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::structural;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Levels of a schema, at most; upstream has no such limit but that of the request.
const DEPTH_MAX: usize = structural::DEPTH_MAX - 1;

/// All that is wrong with the schema of one version.
pub(super) fn check(at: &Path, schema: &Value, errors: &mut Vec<Error>) {
    let before = errors.len();
    let mut walk = Walk { errors: Vec::new(), depth: 0 };
    walk.structural(at, schema, Level::Root);
    walk.errors.sort_by_key(ToString::to_string);
    errors.append(&mut walk.errors);
    if errors.len() == before {
        defaults::check(at, schema, errors);
        expressions::check(at, schema, errors);
    }
}

struct Walk {
    errors: Vec<Error>,
    depth: usize,
}

impl Walk {
    fn structural(&mut self, at: &Path, schema: &Value, level: Level) {
        if self.depth >= DEPTH_MAX {
            let why = format!("must have at most {DEPTH_MAX} levels");
            self.errors.push(at.forbidden(why));
            return;
        }
        self.depth += 1;
        self.unsupported(at, schema);
        self.kind(at, schema, level);
        self.extensions(at, schema);
        self.list_type(at, schema);
        self.map_type(at, schema);
        for (name, field) in schema.fields("properties").into_iter().flatten() {
            self.structural(&at.child("properties").key(name), field, Level::Field);
        }
        if schema["items"].is_object() {
            self.structural(&at.child("items"), &schema["items"], Level::Item);
        } else if schema.text("type") == "array" && !schema.has("items") {
            self.errors.push(at.child("items").required("must be specified"));
        }
        self.additional(at, schema, level);
        self.values(at, schema, schema, level);
        self.metadata(at, schema, level);
        self.depth -= 1;
    }

    fn unsupported(&mut self, at: &Path, schema: &Value) {
        for field in
            ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"]
        {
            let given = match &schema[field] {
                Value::Null => false,
                Value::Object(map) => !map.is_empty() || field == "dependencies",
                Value::String(text) => !text.is_empty(),
                _ => true,
            };
            if given {
                self.errors.push(at.child(field).forbidden(format!("{field} is not supported")));
            }
        }
        if schema.text("type") == "null" {
            self.errors.push(at.child("type").forbidden("type cannot be set to null"));
        }
        if schema["items"].is_array() {
            let why = "items must be a schema object and not an array";
            self.errors.push(at.child("items").forbidden(why));
        }
        if schema.flag("uniqueItems") {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes \
                       quadratic";
            self.errors.push(at.child("uniqueItems").forbidden(why));
        }
    }

    fn kind(&mut self, at: &Path, schema: &Value, level: Level) {
        const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
        let kind = schema.text("type");
        let embedded = schema.flag("x-kubernetes-embedded-resource");
        let preserve = schema.flag("x-kubernetes-preserve-unknown-fields");
        let at_kind = at.child("type");
        if !kind.is_empty() && !TYPES.contains(&kind) && kind != "null" {
            self.errors.push(at_kind.not_supported(kind, &TYPES));
        }
        if embedded && kind != "object" {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            self.errors.push(if kind.is_empty() {
                at_kind.required(why)
            } else {
                at_kind.invalid(kind, why)
            });
        } else if kind.is_empty() && !schema.flag("x-kubernetes-int-or-string") && !preserve {
            self.errors.push(at_kind.required(match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            }));
        }
        if level == Level::Root && !kind.is_empty() && kind != "object" {
            self.errors.push(at_kind.invalid(kind, "must be object at the root"));
        }
        let empty = schema.fields("properties").is_none_or(serde_json::Map::is_empty);
        if embedded && !preserve && empty {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                       x-kubernetes-preserve-unknown-fields";
            self.errors.push(at.child("properties").required(why));
        }
    }

    fn extensions(&mut self, at: &Path, schema: &Value) {
        let preserve = "x-kubernetes-preserve-unknown-fields";
        if schema.opt_flag(preserve) == Some(false) {
            self.errors.push(at.child(preserve).invalid(false, "must be true or undefined"));
        }
        if schema.flag("x-kubernetes-int-or-string") {
            for field in [preserve, "x-kubernetes-embedded-resource"] {
                if schema.flag(field) {
                    let why = "must be false if x-kubernetes-int-or-string is true";
                    self.errors.push(at.child(field).invalid(true, why));
                }
            }
            if !schema.text("type").is_empty() {
                let why = "type must be empty if x-kubernetes-int-or-string is true";
                self.errors.push(at.child("type").invalid(schema.text("type"), why));
            }
        }
    }

    fn list_type(&mut self, at: &Path, schema: &Value) {
        let list = schema.text("x-kubernetes-list-type");
        let keys = schema.items("x-kubernetes-list-map-keys");
        let at_list = at.child("x-kubernetes-list-type");
        let at_keys = at.child("x-kubernetes-list-map-keys");
        if !list.is_empty() && schema.text("type") != "array" {
            let at = at.child("type");
            let why = "must be array if x-kubernetes-list-type is specified";
            self.errors.push(match schema.text("type") {
                "" => at.required(why),
                kind => at.invalid(kind, why),
            });
        }
        if !list.is_empty() && !["atomic", "set", "map"].contains(&list) {
            self.errors.push(at_list.not_supported(list, &["atomic", "set", "map"]));
        }
        if list != "map" {
            if !keys.is_empty() {
                let why = "must be map if x-kubernetes-list-map-keys is non-empty";
                self.errors.push(match list {
                    "" => at_list.required(why),
                    list => at_list.invalid(list, why),
                });
            }
            return;
        }
        if keys.is_empty() {
            let why = "must not be empty if x-kubernetes-list-type is map";
            self.errors.push(at_keys.required(why));
        }
        if schema["items"].text("type") != "object" {
            let why = "must be object if parent array's x-kubernetes-list-type is map";
            self.errors
                .push(at.child("items").child("type").invalid(schema["items"].text("type"), why));
        }
        self.list_keys(at, &at_keys, schema, keys);
    }

    fn list_keys(&mut self, at: &Path, at_keys: &Path, schema: &Value, keys: &[Value]) {
        let items = &schema["items"];
        for (index, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            let Some(field) = items["properties"].get(key) else {
                let why = "entries must all be names of item properties";
                self.errors.push(at_keys.index(index).invalid(key, why));
                continue;
            };
            if ["array", "object"].contains(&field.text("type")) {
                let at = at.child("items").child("properties").key(key).child("type");
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                self.errors.push(at.invalid(field.text("type"), why));
            }
            let required = items.items("required").iter().any(|one| one == key);
            if !required && !field.has("default") {
                let at = at.child("items").child("properties").key(key).child("default");
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a \
                           default or be a required property";
                self.errors.push(at.required(why));
            }
            if keys[..index].iter().any(|one| one == key) {
                self.errors.push(at_keys.index(index).duplicate(key));
            }
        }
    }

    fn map_type(&mut self, at: &Path, schema: &Value) {
        let map = schema.text("x-kubernetes-map-type");
        if map.is_empty() {
            return;
        }
        if schema.text("type") != "object" {
            let why = "must be object if x-kubernetes-map-type is specified";
            self.errors.push(at.child("type").invalid(schema.text("type"), why));
        }
        if !["atomic", "granular"].contains(&map) {
            let at = at.child("x-kubernetes-map-type");
            self.errors.push(at.not_supported(map, &["granular", "atomic"]));
        }
    }

    fn additional(&mut self, at: &Path, schema: &Value, level: Level) {
        let more = &schema["additionalProperties"];
        let at = at.child("additionalProperties");
        if more.is_null() {
            return;
        }
        let named = schema.fields("properties").is_some_and(|map| !map.is_empty());
        if *more == Value::Bool(false) {
            let why = "additionalProperties cannot be set to false";
            self.errors.push(at.forbidden(why));
        }
        if named && *more != Value::Bool(true) {
            let why = "additionalProperties and properties are mutual exclusive";
            self.errors.push(at.forbidden(why));
        }
        if level == Level::Root {
            self.errors.push(at.forbidden("must not be used at the root"));
        }
        if schema.flag("x-kubernetes-embedded-resource") {
            let why = "must not be used if x-kubernetes-embedded-resource is set";
            self.errors.push(at.forbidden(why));
        }
        if more.is_object() {
            self.structural(&at, more, Level::Field);
        }
    }

    /// Validations; `owner` is the structural schema that they belong to.
    fn values(&mut self, at: &Path, schema: &Value, owner: &Value, level: Level) {
        let either = |schemas: &[Value]| -> bool {
            let wanted =
                [serde_json::json!({"type": "integer"}), serde_json::json!({"type": "string"})];
            schemas == wanted
        };
        let pattern = schema.text("pattern");
        if let Err(error) = structural::pattern(pattern) {
            let why = format!("must be a valid regular expression, but isn't: {error}");
            self.errors.push(at.child("pattern").invalid(pattern, why));
        }
        if !either(schema.items("anyOf")) {
            for (index, nested) in schema.items("anyOf").iter().enumerate() {
                self.nested(&at.child("anyOf").index(index), nested, owner, level, false);
            }
        }
        for (index, nested) in schema.items("allOf").iter().enumerate() {
            let skip = index == 0 && either(nested.items("anyOf"));
            self.nested(&at.child("allOf").index(index), nested, owner, level, skip);
        }
        for (index, nested) in schema.items("oneOf").iter().enumerate() {
            self.nested(&at.child("oneOf").index(index), nested, owner, level, false);
        }
        if schema["not"].is_object() {
            self.nested(&at.child("not"), &schema["not"], owner, level, false);
        }
    }

    fn nested(&mut self, at: &Path, schema: &Value, owner: &Value, level: Level, skip: bool) {
        if self.depth >= DEPTH_MAX {
            let why = format!("must have at most {DEPTH_MAX} levels");
            self.errors.push(at.forbidden(why));
            return;
        }
        self.depth += 1;
        self.unsupported(at, schema);
        if skip {
            let mut rest = schema.clone();
            if let Some(map) = rest.as_object_mut() {
                map.remove("anyOf");
            }
            self.values(at, &rest, owner, level);
        } else {
            self.values(at, schema, owner, level);
        }
        self.forbidden(at, schema);
        self.complete(at, schema, owner);
        for (name, field) in schema.fields("properties").into_iter().flatten() {
            let at = at.child("properties").key(name);
            if name == "metadata" {
                self.errors.push(at.forbidden("must not be specified in a nested context"));
            }
            let inner = match owner["properties"].get(name) {
                Some(inner) => inner,
                None => &owner["additionalProperties"],
            };
            self.nested(&at, field, inner, Level::Field, false);
        }
        if schema["items"].is_object() {
            let at = at.child("items");
            self.nested(&at, &schema["items"], &owner["items"], Level::Item, false);
        }
        self.depth -= 1;
    }

    fn forbidden(&mut self, at: &Path, schema: &Value) {
        const FALSE: &str = "must be false to be structural";
        const EMPTY: &str = "must be empty to be structural";
        const UNDEFINED: &str = "must be undefined to be structural";
        for (field, why) in [
            ("type", EMPTY),
            ("additionalProperties", UNDEFINED),
            ("default", UNDEFINED),
            ("title", EMPTY),
            ("description", EMPTY),
            ("nullable", FALSE),
            ("externalDocs", UNDEFINED),
            ("x-kubernetes-preserve-unknown-fields", FALSE),
            ("x-kubernetes-embedded-resource", FALSE),
            ("x-kubernetes-int-or-string", FALSE),
            ("x-kubernetes-list-map-keys", EMPTY),
            ("x-kubernetes-list-type", UNDEFINED),
            ("x-kubernetes-map-type", UNDEFINED),
            ("x-kubernetes-validations", EMPTY),
        ] {
            let given = match &schema[field] {
                Value::Null => false,
                Value::Bool(given) => *given || field == "additionalProperties",
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                _ => true,
            };
            if given {
                self.errors.push(at.child(field).forbidden(why));
            }
        }
    }

    /// What validations name must be there outside of them too.
    fn complete(&mut self, at: &Path, schema: &Value, owner: &Value) {
        let root = |path: String| Path::new(&path);
        let base = owner_path(at);
        for name in schema.fields("properties").into_iter().flatten().map(|(name, _)| name) {
            let known = owner["properties"].get(name).is_some()
                || owner["additionalProperties"].is_object();
            if !known {
                let place = root(format!("{base}.properties[{name}]"));
                let why = format!(
                    "because it is defined in {}",
                    at.child("properties").key(name).as_str()
                );
                self.errors.push(place.required(why));
            }
        }
        if schema["items"].is_object() && !owner["items"].is_object() {
            let why = format!("because it is defined in {}", at.child("items").as_str());
            self.errors.push(root(format!("{base}.items")).required(why));
        }
    }

    fn metadata(&mut self, at: &Path, schema: &Value, level: Level) {
        let checked = level == Level::Root || schema.flag("x-kubernetes-embedded-resource");
        if !checked {
            return;
        }
        let fields = at.child("properties");
        for name in ["kind", "apiVersion"] {
            if let Some(field) =
                schema["properties"].get(name).filter(|one| one.text("type") != "string")
            {
                let at = fields.key(name).child("type");
                self.errors.push(at.invalid(field.text("type"), "must be string"));
            }
        }
        let Some(metadata) = schema["properties"].get("metadata") else { return };
        let at = fields.key("metadata");
        if metadata.text("type") != "object" {
            self.errors.push(at.child("type").invalid(metadata.text("type"), "must be object"));
        }
        let others = metadata.fields("properties").into_iter().flatten();
        let only =
            others.map(|(name, _)| name).all(|name| name == "name" || name == "generateName");
        if level == Level::Root && !only {
            self.errors.push(at.forbidden(
                "must not specify anything other than name and generateName, but metadata is \
                 implicitly specified",
            ));
        }
    }
}

/// The place outside of validations that a place within them is about.
fn owner_path(at: &Path) -> String {
    let mut out: Vec<String> = Vec::new();
    for part in at.as_str().split('.') {
        let junctor = ["anyOf[", "allOf[", "oneOf["].iter().any(|word| part.starts_with(word));
        if !junctor && part != "not" {
            out.push(part.to_owned());
        }
    }
    out.join(".")
}
