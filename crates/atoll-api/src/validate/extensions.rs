//! CustomResourceDefinition: names, versions, subresources, columns, conversion and schemas.

mod defaults;
mod expressions;
mod schema;

use serde_json::{Value, json};

use super::{faults, immutable};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;
use crate::structural::jsonpath::JsonPath;

/// The annotation by which a group of Kubernetes itself is approved.
const APPROVED: &str = "api-approved.kubernetes.io";
/// Selectable fields of one version, at most. Upstream's number.
const SELECTABLE_FIELDS_MAX: usize = 8;

pub(crate) fn definition(crd: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &crd["spec"];
    let name = crd["metadata"].text("name");
    let wanted = format!("{}.{}", spec["names"].text("plural"), spec.text("group"));
    if !name.is_empty() && name != wanted {
        let why = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Path::new("metadata").child("name").invalid(name, why));
    }
    self::spec(spec, &mut errors);
    errors
}

/// The same for a new one: groups of Kubernetes itself are for those who were asked.
pub(crate) fn new_definition(crd: &Value) -> Vec<Error> {
    let mut errors = definition(crd);
    let group = crd["spec"].text("group");
    let protected = [".k8s.io", ".kubernetes.io"].iter().any(|end| group.ends_with(end))
        || group == "k8s.io"
        || group == "kubernetes.io";
    if !protected {
        return errors;
    }
    let at = Path::new("metadata").child("annotations").key(APPROVED);
    match crd["metadata"]["annotations"].text(APPROVED) {
        "" => errors.push(at.required(format!(
            "protected groups must have approval annotation {APPROVED:?}, see \
             https://github.com/kubernetes/enhancements/pull/1111"
        ))),
        text if text.starts_with("http") || text.starts_with("unapproved") => {}
        text => errors.push(at.invalid(
            text,
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or \
                 a reason starting with \"unapproved\", see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            ),
        )),
    }
    errors
}

pub(crate) fn definition_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = definition(new);
    let established = condition(old, "Established");
    let at = Path::new("spec");
    let (is, was) = (&new["spec"], &old["spec"]);
    if established {
        immutable(&at.child("scope"), &is["scope"], &was["scope"], &mut errors);
        let names = at.child("names");
        let (own, before) = (&is["names"]["kind"], &was["names"]["kind"]);
        immutable(&names.child("kind"), own, before, &mut errors);
    }
    immutable(&at.child("group"), &is["group"], &was["group"], &mut errors);
    let names = at.child("names");
    let (own, before) = (&is["names"]["plural"], &was["names"]["plural"]);
    immutable(&names.child("plural"), own, before, &mut errors);
    for stored in new["status"].items("storedVersions").iter().filter_map(Value::as_str) {
        if !is.items("versions").iter().any(|version| version.text("name") == stored) {
            let index = new["status"].items("storedVersions").iter().position(|one| one == stored);
            let at = Path::new("status").child("storedVersions").index(index.unwrap_or(0));
            errors.push(at.invalid(
                stored,
                "missing from spec.versions; stored versions must appear in spec.versions",
            ));
        }
    }
    errors
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("status").child("storedVersions");
    let stored = new["status"].items("storedVersions");
    let versions = new["spec"].items("versions");
    if stored.is_empty() {
        errors.push(at.invalid(json!([]), "must have at least one stored version"));
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.get("name") == Some(name)) {
            let why = "must appear in spec.versions";
            errors.push(at.index(index).invalid(name.clone(), why));
        }
    }
    let current = versions.iter().find(|version| version.flag("storage"));
    if let Some(current) = current.map(|version| version.text("name"))
        && !stored.is_empty()
        && !stored.iter().any(|one| one == current)
    {
        errors.push(at.invalid(stored, format!("must have the storage version {current}")));
    }
    errors
}

/// Whether a condition of the status is true.
pub(crate) fn condition(crd: &Value, kind: &str) -> bool {
    let conditions = crd["status"].items("conditions").iter();
    conditions.into_iter().any(|one| one.text("type") == kind && one.text("status") == "True")
}

fn spec(spec: &Value, errors: &mut Vec<Error>) {
    let at = Path::new("spec");
    group(&at.child("group"), spec.text("group"), errors);
    let scopes = ["Cluster", "Namespaced"];
    super::one_of(&at.child("scope"), spec.text("scope"), &scopes, "", errors);
    if spec.flag("preserveUnknownFields") {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                   spec.versions[*].schema instead";
        errors.push(at.child("preserveUnknownFields").invalid(true, why));
    }
    let versions = spec.items("versions");
    let place = at.child("versions");
    for (index, one) in versions.iter().enumerate() {
        version(&place.index(index), one, errors);
    }
    let name = |one: &Value| one.text("name").to_owned();
    let twice = |(index, one): (usize, &Value)| {
        versions[..index].iter().any(|other| name(other) == name(one))
    };
    if versions.iter().enumerate().any(twice) {
        errors.push(place.invalid(versions, "must contain unique version names"));
    }
    if versions.iter().filter(|one| one.flag("storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.push(place.invalid(versions, why));
    }
    names(&at.child("names"), &spec["names"], errors);
    conversion(&at.child("conversion"), &spec["conversion"], errors);
    expressions::total(versions, errors);
}

fn group(at: &Path, group: &str, errors: &mut Vec<Error>) {
    if group.is_empty() {
        errors.push(at.required(""));
        return;
    }
    faults(at, group, names::dns1123_subdomain(group), errors);
    if !group.contains('.') {
        errors.push(at.invalid(group, "should be a domain with at least one dot"));
    }
}

fn version(at: &Path, version: &Value, errors: &mut Vec<Error>) {
    let name = version.text("name");
    let wrong = names::dns1035_label(name);
    if !wrong.is_empty() {
        errors.push(at.child("name").invalid(name, wrong.join(",")));
    }
    if version.has("deprecationWarning") {
        let at = at.child("deprecationWarning");
        let text = version.text("deprecationWarning");
        if !version.flag("deprecated") {
            errors.push(at.invalid(text, "can only be set for deprecated versions"));
        }
        if text.trim().is_empty() {
            errors.push(at.invalid(text, "must not be empty"));
        }
    }
    let schema = &version["schema"]["openAPIV3Schema"];
    let place = at.child("schema").child("openAPIV3Schema");
    if schema.is_object() {
        schema::check(&place, schema, errors);
    } else {
        errors.push(place.required("schemas are required"));
    }
    if version["subresources"].has("scale") {
        scale(&at.child("subresources"), &version["subresources"]["scale"], errors);
    }
    for (index, column) in version.items("additionalPrinterColumns").iter().enumerate() {
        self::column(&at.child("additionalPrinterColumns").index(index), column, errors);
    }
    selectable(&at.child("selectableFields"), version, schema, errors);
}

fn names(at: &Path, names: &Value, errors: &mut Vec<Error>) {
    let label = |field: &str, text: &str, errors: &mut Vec<Error>| {
        let wrong = names::dns1035_label(text);
        if !wrong.is_empty() {
            errors.push(at.child(field).invalid(text, wrong.join(",")));
        }
    };
    for field in ["plural", "singular"] {
        let text = names.text(field);
        if text.is_empty() && field == "plural" {
            errors.push(at.child(field).required(""));
        } else if !text.is_empty() {
            label(field, text, errors);
        }
    }
    for field in ["kind", "listKind"] {
        let text = names.text(field);
        let wrong = names::dns1035_label(&text.to_lowercase());
        if text.is_empty() && field == "kind" {
            errors.push(at.child(field).required(""));
        } else if !text.is_empty() && !wrong.is_empty() {
            let why =
                format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(at.child(field).invalid(text, why));
        }
    }
    if !names.text("kind").is_empty() && names.text("kind") == names.text("listKind") {
        let why = "kind and listKind may not be the same";
        errors.push(at.child("listKind").invalid(names.text("listKind"), why));
    }
    for list in ["shortNames", "categories"] {
        for (index, word) in names.items(list).iter().filter_map(Value::as_str).enumerate() {
            let wrong = names::dns1035_label(word);
            if !wrong.is_empty() {
                errors.push(at.child(list).index(index).invalid(word, wrong.join(",")));
            }
        }
    }
}

fn conversion(at: &Path, conversion: &Value, errors: &mut Vec<Error>) {
    let strategy = conversion.text("strategy");
    let webhook = &conversion["webhook"];
    super::one_of(&at.child("strategy"), strategy, &["None", "Webhook"], "", errors);
    let place = at.child("webhook");
    if strategy != "Webhook" {
        if conversion.has("webhook") {
            let why = "should not be set when strategy is not set to Webhook";
            errors.push(place.forbidden(why));
        }
        return;
    }
    if webhook.has("clientConfig") {
        client(&place.child("clientConfig"), &webhook["clientConfig"], errors);
    } else {
        let why = "required when strategy is set to Webhook";
        errors.push(place.child("clientConfig").required(why));
    }
    let place = place.child("conversionReviewVersions");
    let versions = webhook.items("conversionReviewVersions");
    if versions.is_empty() {
        errors.push(place.required(""));
    } else if !versions.iter().any(|one| one == "v1") {
        errors.push(place.invalid(versions, "must include at least one of v1, v1beta1"));
    }
}

fn client(at: &Path, config: &Value, errors: &mut Vec<Error>) {
    match (config.has("url"), config.has("service")) {
        (true, true) | (false, false) => {
            errors.push(at.required("exactly one of url or service is required"));
        }
        (true, false) => {
            let url = config.text("url");
            let at = at.child("url");
            if !url.starts_with("https://") {
                let why =
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.push(at.invalid(url, why));
            } else if url.len() == "https://".len() {
                errors.push(
                    at.invalid(url, "host must be specified; desired format: https://host[/path]"),
                );
            }
        }
        (false, true) => {
            let (service, at) = (&config["service"], at.child("service"));
            for field in ["name", "namespace"] {
                if service.text(field).is_empty() {
                    errors.push(at.child(field).required(format!("service {field} is required")));
                }
            }
            if let Some(port) = service.int("port").filter(|port| !(1..=65535).contains(port)) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(at.child("port").invalid(port, why));
            }
        }
    }
}

fn scale(at: &Path, scale: &Value, errors: &mut Vec<Error>) {
    for (field, under, needed) in [
        ("specReplicasPath", ".spec", true),
        ("statusReplicasPath", ".status", true),
        ("labelSelectorPath", ".status", false),
    ] {
        let path = scale.text(field);
        let at = at.child(&format!("scale.{field}"));
        if path.is_empty() {
            if needed {
                errors.push(at.required(""));
            }
            continue;
        }
        let allowed = path.starts_with(&format!("{under}."))
            || (field == "labelSelectorPath" && path.starts_with(".spec."));
        if !path.starts_with('.') {
            errors.push(at.invalid(path, "must be a simple json path starting with ."));
        } else if !allowed {
            let why = match field {
                "labelSelectorPath" => {
                    "should be a json path under either .status or .spec".to_owned()
                }
                _ => format!("should be a json path under {under}"),
            };
            errors.push(at.invalid(path, why));
        }
    }
}

fn column(at: &Path, column: &Value, errors: &mut Vec<Error>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] =
        ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if column.text("name").is_empty() {
        errors.push(at.child("name").required(""));
    }
    let kind = column.text("type");
    if kind.is_empty() {
        let why = format!("must be one of {}", TYPES.join(","));
        errors.push(at.child("type").required(why));
    } else if !TYPES.contains(&kind) {
        let why = format!("must be one of {}", TYPES.join(","));
        errors.push(at.child("type").invalid(kind, why));
    }
    let format = column.text("format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let why = format!("must be one of {}", FORMATS.join(","));
        errors.push(at.child("format").invalid(format, why));
    }
    let path = column.text("jsonPath");
    if path.is_empty() {
        errors.push(at.child("jsonPath").required(""));
    } else if !path.starts_with(['.', '[', '$']) {
        errors
            .push(at.child("jsonPath").invalid(path, "must be a simple json path starting with ."));
    } else if let Err(error) = JsonPath::parse(path) {
        let why = format!("is an invalid jsonPath: {error}");
        errors.push(at.child("jsonPath").invalid(path, why));
    }
}

fn selectable(at: &Path, version: &Value, schema: &Value, errors: &mut Vec<Error>) {
    let fields = version.items("selectableFields");
    if fields.len() > SELECTABLE_FIELDS_MAX {
        errors.push(at.too_many(fields.len(), SELECTABLE_FIELDS_MAX));
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = at.index(index).child("jsonPath");
        let path = field.text("jsonPath");
        if path.is_empty() {
            errors.push(at.required(""));
            continue;
        }
        if seen.contains(&path) {
            errors.push(at.duplicate(path));
        }
        seen.push(path);
        let names = JsonPath::parse(path).ok();
        let Some(names) =
            names.as_ref().and_then(JsonPath::simple).filter(|_| path.starts_with('.'))
        else {
            errors.push(at.invalid(path, "must be a simple json path starting with ."));
            continue;
        };
        if names.first() == Some(&"metadata") {
            errors.push(at.invalid(path, "must not point to fields in metadata"));
            continue;
        }
        let found = names.iter().try_fold(schema, |schema, name| schema["properties"].get(name));
        match found.map(|schema| schema.text("type")) {
            Some("string" | "integer" | "boolean") => {}
            Some(_) => errors.push(at.invalid(
                path,
                "must point to a field of type string, boolean or integer. Enum string fields and \
                 strings with formats are allowed.",
            )),
            None => {
                errors
                    .push(at.invalid(path, "is an invalid path: does not refer to a valid field"));
            }
        }
    }
}
