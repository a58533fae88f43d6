//! Paths in the form of OpenAPI v2, made of those of v3.
//!
//! Clients find out there which parameters a request takes (`fieldValidation`, `dryRun`) when
//! they do not read v3, and generators what to call each operation.

use serde_json::{Map, Value, json};

/// Both what operations read and what they answer, where nothing else is said.
const ALL_TYPES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];

/// `paths` of a v3 document.
pub(super) fn paths(paths: &Map<String, Value>) -> Value {
    let all = paths.iter().map(|(path, item)| {
        let everywhere = in_namespaces(path).is_some_and(|inner| paths.contains_key(&inner));
        (path.clone(), path_item(path, item, everywhere))
    });
    Value::Object(all.collect())
}

/// Where the objects of one namespace are that a path lists of all.
fn in_namespaces(path: &str) -> Option<String> {
    let (root, resource) = path.rsplit_once('/')?;
    Some(format!("{root}/namespaces/{{namespace}}/{resource}"))
}

/// `everywhere`: the path lists the objects of all namespaces.
fn path_item(path: &str, item: &Value, everywhere: bool) -> Value {
    let mut converted = Map::new();
    for method in METHODS {
        if let Some(one) = item.get(method) {
            let mut one = operation(path, method, one);
            if everywhere && let Some(Value::String(id)) = one.get_mut("operationId") {
                id.push_str("ForAllNamespaces");
            }
            converted.insert(method.to_owned(), one);
        }
    }
    if let Some(Value::Array(shared)) = item.get("parameters") {
        converted.insert("parameters".to_owned(), shared.iter().map(parameter).collect());
    }
    Value::Object(converted)
}

fn operation(path: &str, method: &str, operation: &Value) -> Value {
    let given = operation["parameters"].as_array().into_iter().flatten();
    let mut parameters: Vec<Value> = given.map(parameter).collect();
    let mut consumes: Vec<&str> = vec!["*/*"];
    let body = operation["requestBody"]["content"].as_object();
    if let Some((content, (_, first))) = body.and_then(|all| Some((all, all.iter().next()?))) {
        if method == "patch" {
            consumes = content.keys().map(String::as_str).collect();
        }
        let required = operation["requestBody"]["required"] == true;
        let mut body = json!({"name": "body", "in": "body", "schema": first["schema"]});
        if required {
            body["required"] = json!(true);
        }
        parameters.insert(0, body);
    }
    let mut converted = json!({
        "operationId": operation_id(path, operation),
        "tags": [tag(path)],
        "schemes": ["https"],
        "consumes": consumes,
        "produces": ALL_TYPES,
        "responses": responses(&operation["responses"]),
    });
    if !parameters.is_empty() {
        converted["parameters"] = Value::Array(parameters);
    }
    let extensions = operation.as_object().into_iter().flatten();
    for (name, value) in extensions.filter(|(name, _)| name.starts_with("x-")) {
        converted[name] = value.clone();
    }
    converted
}

/// A parameter's schema stands in the parameter itself.
fn parameter(third: &Value) -> Value {
    let mut second = third.clone();
    let Some(map) = second.as_object_mut() else { return second };
    if let Some(Value::Object(schema)) = map.remove("schema") {
        map.extend(schema);
    }
    second
}

fn responses(third: &Value) -> Value {
    let one = |(code, response): (&String, &Value)| {
        let mut second = json!({"description": response["description"]});
        let content = response["content"].as_object().and_then(|all| all.values().next());
        if let Some(content) = content {
            second["schema"] = content["schema"].clone();
        }
        (code.clone(), second)
    };
    let mut all: Map<String, Value> = third.as_object().into_iter().flatten().map(one).collect();
    all.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}

/// `apps_v1` of `/apis/apps/v1/…`, `core_v1` of `/api/v1/…`.
fn tag(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["", "api", version, ..] => format!("core_{version}"),
        ["", "apis", group, version, ..] => format!("{}_{version}", words(group, false)),
        _ => "atoll".to_owned(),
    }
}

/// Upstream's name for an operation: `listCoreV1NamespacedPod`, `patchAppsV1NamespacedDeploymentScale`.
fn operation_id(path: &str, operation: &Value) -> String {
    let verb = match operation["x-kubernetes-action"].as_str().unwrap_or("") {
        "get" => "read",
        "put" => "replace",
        "post" => "create",
        "deletecollection" => "delete",
        other => other,
    };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("core", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return verb.to_owned(),
    };
    let collection = operation["x-kubernetes-action"] == "deletecollection";
    let in_namespace = matches!(rest, ["namespaces", "{namespace}", _, ..]);
    let rest = if in_namespace { rest.get(2..).unwrap_or_default() } else { rest };
    let resource = rest.first().copied().unwrap_or_default();
    let part = rest.get(2).copied().unwrap_or_default();
    // A part's own kind is not its object's, by whose name operations go.
    let kind = match part {
        "" | "status" => operation["x-kubernetes-group-version-kind"]["kind"].as_str(),
        _ => atoll_api::kinds::find(if group == "core" { "" } else { group }, version, resource)
            .map(|row| row.kind.as_ref()),
    };
    let mut id = format!("{verb}{}{}", words(group, true), capital(version));
    id.push_str(if collection { "Collection" } else { "" });
    id.push_str(if in_namespace { "Namespaced" } else { "" });
    id.push_str(kind.unwrap_or_default());
    id.push_str(&capital(part));
    id
}

/// `RbacAuthorization` of `rbac.authorization.k8s.io`.
fn words(group: &str, upper: bool) -> String {
    let parts = group.trim_end_matches(".k8s.io").split('.');
    let words = parts
        .enumerate()
        .map(|(at, part)| if at > 0 || upper { capital(part) } else { part.to_owned() });
    words.collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(path: &str, action: &str, kind: &str) -> String {
        let operation = json!({"x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"kind": kind}});
        operation_id(path, &operation)
    }

    #[test]
    fn operations_have_upstreams_names() {
        let pods = "/api/v1/namespaces/{namespace}/pods";
        assert_eq!(id(pods, "list", "Pod"), "listCoreV1NamespacedPod");
        assert_eq!(id(pods, "deletecollection", "Pod"), "deleteCoreV1CollectionNamespacedPod");
        let of_all = json!({"/api/v1/pods": {"get": {"x-kubernetes-action": "list",
            "x-kubernetes-group-version-kind": {"kind": "Pod"}}}, pods: {}});
        let id_of_all = &paths(of_all.as_object().unwrap())["/api/v1/pods"]["get"]["operationId"];
        assert_eq!(id_of_all, "listCoreV1PodForAllNamespaces");
        assert_eq!(id("/api/v1/nodes", "list", "Node"), "listCoreV1Node");
        assert_eq!(id("/api/v1/namespaces/{name}", "get", "Namespace"), "readCoreV1Namespace");
        let scale = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale";
        assert_eq!(id(scale, "put", "Scale"), "replaceAppsV1NamespacedDeploymentScale");
        let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}";
        assert_eq!(id(role, "patch", "ClusterRole"), "patchRbacAuthorizationV1ClusterRole");
    }

    #[test]
    fn a_body_is_a_parameter_and_a_schema_is_not_wrapped() {
        let third = json!({"parameters": [{"name": "dryRun", "in": "query",
                "schema": {"type": "string", "uniqueItems": true}}],
            "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "x"}}}},
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": "y"}}}}}});
        let second = operation("/api/v1/nodes", "post", &third);
        assert_eq!(
            second["parameters"],
            json!([
                {"name": "body", "in": "body", "required": true, "schema": {"$ref": "x"}},
                {"name": "dryRun", "in": "query", "type": "string", "uniqueItems": true},
            ])
        );
        assert_eq!(second["responses"]["200"]["schema"], json!({"$ref": "y"}));
    }
}
