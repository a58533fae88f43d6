//! Paths of a document: each row's URLs with what may be done there.

use atoll_api::kinds::{ResourceInfo, Row, Subresource};
use atoll_api::schema;
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

pub(super) fn of_rows(rows: &[Row]) -> Map<String, Value> {
    let mut paths = Map::new();
    for row in rows {
        of_row(row, &mut paths);
    }
    paths
}

fn of_row(row: &ResourceInfo, paths: &mut Map<String, Value>) {
    let root = format!("/{}", super::place(row));
    let base =
        if row.namespaced() { format!("{root}/namespaces/{{namespace}}") } else { root.clone() };
    let collection = format!("{base}/{}", row.resource);
    let item = format!("{collection}/{{name}}");
    insert(paths, &collection, row, operations(row, row.verbs, &COLLECTION));
    insert(paths, &item, row, operations(row, row.verbs, &ITEM));
    if row.namespaced() && row.allows("list") {
        let everywhere = format!("{root}/{}", row.resource);
        insert(paths, &everywhere, row, operations(row, &["list"], &COLLECTION));
    }
    for part in row.subresources.iter().filter(|part| part.served) {
        insert(paths, &format!("{item}/{}", part.name), row, of_part(row, part));
    }
}

/// verb, HTTP method, upstream's name for it
type Action = (&'static str, &'static str, &'static str);

const COLLECTION: [Action; 3] = [
    ("list", "get", "list"),
    ("create", "post", "post"),
    ("deletecollection", "delete", "deletecollection"),
];
const ITEM: [Action; 4] = [
    ("get", "get", "get"),
    ("update", "put", "put"),
    ("patch", "patch", "patch"),
    ("delete", "delete", "delete"),
];
const PART: [Action; 4] = [
    ("get", "get", "get"),
    ("create", "post", "post"),
    ("update", "put", "put"),
    ("patch", "patch", "patch"),
];

fn insert(
    paths: &mut Map<String, Value>,
    path: &str,
    row: &ResourceInfo,
    operations: Map<String, Value>,
) {
    if operations.is_empty() {
        return;
    }
    let mut parameters = Vec::new();
    if path.contains("{name}") {
        parameters.push(path_parameter("name", &format!("name of the {}", row.kind)));
    }
    if path.contains("{namespace}") {
        let text = "object name and auth scope, such as for teams and projects";
        parameters.push(path_parameter("namespace", text));
    }
    let mut value = Value::Object(operations);
    if row.custom.is_some()
        && let Some(Value::Object(patches)) = value.pointer_mut("/patch/requestBody/content")
    {
        patches.remove("application/strategic-merge-patch+json");
    }
    if !parameters.is_empty() {
        value["parameters"] = Value::Array(parameters);
    }
    paths.insert(path.to_owned(), value);
}

fn operations(row: &ResourceInfo, verbs: &[&str], actions: &[Action]) -> Map<String, Value> {
    let kind = json!({"group": row.group, "version": row.version, "kind": row.kind});
    let mut operations = Map::new();
    for (verb, method, action) in actions.iter().filter(|(verb, ..)| verbs.contains(verb)) {
        let answer = match *verb {
            "list" => format!("{}List", row.definition),
            "delete" | "deletecollection" => format!("{META}.Status"),
            _ => row.definition.to_string(),
        };
        let operation = operation(verb, action, &kind, &row.definition, &answer);
        operations.insert((*method).to_owned(), operation);
    }
    operations
}

fn of_part(row: &ResourceInfo, part: &Subresource) -> Map<String, Value> {
    let (group, version) = match part.version {
        "" => (&*row.group, &*row.version),
        version => (part.group, version),
    };
    let kind = json!({"group": group, "version": version, "kind": part.kind});
    let definition = schema::by_gvk(group, version, &part.kind)
        .map_or(&*row.definition, |id| id.definition().name.as_ref());
    let mut operations = Map::new();
    for (verb, method, action) in PART.iter().filter(|(verb, ..)| part.verbs.contains(verb)) {
        let operation = operation(verb, action, &kind, definition, definition);
        operations.insert((*method).to_owned(), operation);
    }
    operations
}

fn operation(verb: &str, action: &str, kind: &Value, body: &str, answer: &str) -> Value {
    let mut operation = json!({
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
        "parameters": parameters(verb),
        "responses": {"200": {"description": "OK", "content": content(&["application/json"], answer)}},
    });
    let content = match verb {
        "create" | "update" => content(&["application/json", "application/yaml"], body),
        "patch" => content(&PATCHES, &format!("{META}.Patch")),
        "delete" | "deletecollection" => {
            content(&["application/json"], &format!("{META}.DeleteOptions"))
        }
        _ => return operation,
    };
    operation["requestBody"] = json!({"content": content, "required": !verb.starts_with("delete")});
    operation
}

const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

fn content(types: &[&str], definition: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{definition}")});
    let content = types.iter().map(|name| ((*name).to_owned(), json!({"schema": schema})));
    Value::Object(content.collect())
}

fn parameters(verb: &str) -> Value {
    let names: &[(&str, &str)] = match verb {
        "list" => &[
            ("allowWatchBookmarks", "boolean"),
            ("continue", "string"),
            ("fieldSelector", "string"),
            ("labelSelector", "string"),
            ("limit", "integer"),
            ("resourceVersion", "string"),
            ("resourceVersionMatch", "string"),
            ("sendInitialEvents", "boolean"),
            ("timeoutSeconds", "integer"),
            ("watch", "boolean"),
        ],
        "create" | "update" => {
            &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")]
        }
        "patch" => &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
        "delete" | "deletecollection" => &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
        _ => &[],
    };
    let all = names.iter().map(|(name, kind)| {
        json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
    });
    Value::Array(all.collect())
}

fn path_parameter(name: &str, text: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "required": true,
        "description": text,
        "schema": {"type": "string", "uniqueItems": true},
    })
}
