//! From a body to an object tree of the expected kind, with the texts of upstream's decoder.

use std::sync::Arc;

use atoll_api::field::Path;
use atoll_api::kinds::{self, ResourceInfo, Subresource};
use atoll_api::schema::{self, Definition, Name, SchemaId};
use atoll_api::structural::CustomKind;
use atoll_api::{proto, tree};
use serde_json::Value;

use crate::negotiate::BodyFormat;
use crate::query::FieldValidation;
use crate::status::Status;
use crate::storage;

/// The kind that a body must hold.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    /// Set where a custom resource's schema says what an object holds.
    pub custom: Option<Arc<CustomKind>>,
}

/// What a body held.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub object: Value,
    /// Texts for `Warning:` headers.
    pub warnings: Vec<String>,
}

impl Expected {
    pub(crate) fn of_row(row: &ResourceInfo) -> Self {
        let (group, version) = (row.group.clone(), row.version.clone());
        Self { group, version, kind: row.kind.clone(), custom: row.custom.clone() }
    }

    /// A built-in type that is no resource.
    pub(crate) fn of_kind(group: &'static str, version: &'static str, kind: &'static str) -> Self {
        let (group, version, kind) = (group.into(), version.into(), kind.into());
        Self { group, version, kind, custom: None }
    }

    pub(crate) fn of_part(row: &ResourceInfo, part: &Subresource) -> Self {
        if part.version.is_empty() {
            let (group, version) = (row.group.clone(), row.version.clone());
            let custom = row.custom.clone();
            return Self { group, version, kind: part.kind.clone(), custom };
        }
        let (group, version) = (part.group.into(), part.version.into());
        Self { group, version, kind: part.kind.clone(), custom: None }
    }

    pub(crate) fn api_version(&self) -> String {
        kinds::api_version(&self.group, &self.version)
    }

    pub(crate) fn schema(&self) -> Option<&Definition> {
        match &self.custom {
            Some(custom) => Some(&custom.definition),
            None => {
                let id = schema::by_gvk(&self.group, &self.version, &self.kind);
                id.map(SchemaId::definition)
            }
        }
    }

    /// The body does not hold what it should.
    fn error(&self, found: Option<(&str, &str)>, why: &str, body: &[u8]) -> Status {
        let message = match found {
            Some((version, kind)) if !kind.is_empty() => {
                let version = version.rsplit('/').next().unwrap_or(version);
                format!("{kind} in version {version:?} cannot be handled as a {}: {why}", self.kind)
            }
            _ => format!(
                "the object provided is unrecognized (must be of type {}): {why} ({})",
                self.kind,
                summary(body)
            ),
        };
        Status::bad_request(message)
    }

    fn named(&self, why: &str) -> Status {
        self.error(Some((&self.version, &self.kind)), why, &[])
    }
}

/// Decodes a whole object; unknown fields are dropped, and refused or warned of.
pub(crate) fn object(
    expected: &Expected,
    body: &[u8],
    format: BodyFormat,
    validation: FieldValidation,
) -> Result<Incoming, Status> {
    object_as(expected, body, format, validation, |_| false)
}

/// The same of one that may state versions besides the expected one.
pub(crate) fn object_as(
    expected: &Expected,
    body: &[u8],
    format: BodyFormat,
    validation: FieldValidation,
    is_known: impl Fn(&str) -> bool,
) -> Result<Incoming, Status> {
    let (mut object, duplicates) = tree(expected, body, format)?;
    let version = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if is_known(version) {
        object["apiVersion"] = expected.api_version().into();
    }
    check_type(expected, &mut object, body)?;
    let warnings = prune(expected, &mut object, duplicates, validation)
        .map_err(|problem| problem.of_body(expected))?;
    Ok(Incoming { object, warnings })
}

/// The same for a tree that a patch made.
pub(crate) fn patched(
    expected: &Expected,
    object: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
    blamed: Blamed<'_>,
) -> Result<Vec<String>, Status> {
    check_type(expected, object, &[])?;
    let shown = match blamed {
        Blamed::Result => object.to_string(),
        Blamed::Patch(patch) => go_value(patch),
    };
    let converted = matches!(blamed, Blamed::Patch(_));
    let pruned = prune(expected, object, duplicates, validation);
    pruned.map_err(|problem| problem.of_patch(shown, converted))
}

/// What upstream shows of a patch that gives no object: its result, or the patch itself.
pub(crate) enum Blamed<'a> {
    Result,
    Patch(&'a Value),
}

/// A tree as Go's `%v` prints it: `map[a:1 b:[x y]]`.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_value).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| *key);
            let pairs: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// Options of a request: fields that are not known do not matter, those that are known have
/// their type. Clients write them in the version of whatever group they speak to.
pub(crate) fn options(
    expected: &Expected,
    body: &[u8],
    format: BodyFormat,
    is_known: impl Fn(&str) -> bool,
) -> Result<Value, Status> {
    let ignore = FieldValidation::Ignore;
    object_as(expected, body, format, ignore, is_known).map(|incoming| incoming.object)
}

fn tree(
    expected: &Expected,
    body: &[u8],
    format: BodyFormat,
) -> Result<(Value, Vec<String>), Status> {
    match format {
        BodyFormat::Protobuf if expected.custom.is_some() => Err(Status::unsupported_media_type()),
        BodyFormat::Protobuf => {
            let (_, object) = proto::decode(body)
                .map_err(|error| expected.error(None, &error.to_string(), body))?;
            Ok((object, Vec::new()))
        }
        BodyFormat::Json => {
            let decoded = tree::from_json(body).map_err(|error| {
                let why = format!("couldn't get version/kind; json parse error: {error}");
                expected.error(None, &why, body)
            })?;
            Ok((decoded.object, decoded.duplicates))
        }
        BodyFormat::Yaml => {
            let decoded = tree::from_yaml(body).map_err(|error| {
                expected.error(None, &format!("error converting YAML to JSON: {error}"), body)
            })?;
            Ok((decoded.object, decoded.duplicates))
        }
    }
}

/// The type that the body states must be the expected one; one that states none has it.
fn check_type(expected: &Expected, object: &mut Value, body: &[u8]) -> Result<(), Status> {
    if !object.is_object() {
        let why = format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {} into Go value \
             of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
             \"json:\\\"kind,omitempty\\\"\" }}",
            type_name(object)
        );
        return Err(expected.error(None, &why, body));
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let wanted = expected.api_version();
    if expected.custom.is_some() {
        check_stated(expected, object, (&api_version, &kind), body)?;
    }
    if !kind.is_empty() && kind != expected.kind {
        let known = schema::by_gvk_text(&api_version, &kind);
        let why = if known {
            format!("converting ({kind}) to ({}): unknown conversion", expected.kind)
        } else {
            format!(
                "no kind {kind:?} is registered for version {api_version:?} in scheme \
                 \"pkg/api/legacyscheme/scheme.go:30\""
            )
        };
        return Err(expected.error(Some((&api_version, &kind)), &why, body));
    }
    if !api_version.is_empty() && api_version != wanted {
        return Err(wrong_version(&api_version, &wanted));
    }
    storage::set_type(object, &wanted, &expected.kind);
    Ok(())
}

/// A custom resource has no type that would say what it is: it says so itself.
fn check_stated(
    expected: &Expected,
    object: &Value,
    (api_version, kind): (&str, &str),
    body: &[u8],
) -> Result<(), Status> {
    if kind.is_empty() {
        let why = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(body));
        return Err(expected.error(None, &why, body));
    }
    if api_version.is_empty() {
        return Err(wrong_version("", &expected.api_version()));
    }
    if kind == expected.kind {
        return Ok(());
    }
    let error = Path::new("kind").invalid(kind, format!("must be {}", expected.kind));
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    Err(Status::invalid_kind(&expected.group, kind, name, &[error]))
}

fn wrong_version(found: &str, wanted: &str) -> Status {
    Status::bad_request(format!(
        "the API version in the data ({found}) does not match the expected API version ({wanted})"
    ))
}

/// Why a tree is no object of its kind.
enum Misfit {
    Type(schema::TypeError),
    /// This program's own fault.
    Unknown(Status),
    Text(String),
}

impl Misfit {
    fn of_body(self, expected: &Expected) -> Status {
        match self {
            Self::Unknown(status) => status,
            Self::Text(why) => expected.named(&why),
            Self::Type(error) => expected.named(&error.to_string()),
        }
    }

    /// Upstream blames the patch, not the body; one that is merged strategically is `converted`
    /// without JSON.
    fn of_patch(self, shown: String, converted: bool) -> Status {
        let why = match self {
            Self::Unknown(status) => return status,
            Self::Text(why) => why,
            Self::Type(error) if converted => error.of_converter(),
            Self::Type(error) => error.to_string(),
        };
        let error = Path::new("patch").invalid(shown, why);
        Status::invalid_kind("", "", "", &[error])
    }
}

fn prune(
    expected: &Expected,
    object: &mut Value,
    duplicates: Vec<String>,
    validation: FieldValidation,
) -> Result<Vec<String>, Misfit> {
    let unknown = unknown(expected, object)?;
    let mut problems: Vec<String> =
        unknown.into_iter().map(|path| format!("unknown field \"{path}\"")).collect();
    problems.extend(duplicates.into_iter().map(|path| format!("duplicate field \"{path}\"")));
    match validation {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(problems),
        FieldValidation::Strict if problems.is_empty() => Ok(Vec::new()),
        FieldValidation::Strict => {
            Err(Misfit::Text(format!("strict decoding error: {}", problems.join(", "))))
        }
    }
}

/// Drops unknown fields, and tells which.
fn unknown(expected: &Expected, object: &mut Value) -> Result<Vec<String>, Misfit> {
    let text = Misfit::Type;
    if let Some(custom) = &expected.custom {
        return Ok(custom.read(object).map_err(text)?.unknown);
    }
    let Some(schema) = expected.schema() else {
        return Err(Misfit::Unknown(Status::internal(format!(
            "there is no schema of {} in {}",
            expected.kind,
            expected.api_version()
        ))));
    };
    let unknown = schema::prune_and_check(schema, object).map_err(text)?;
    schema::drop_zeros(schema, object);
    Ok(unknown)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
        Value::Object(_) => "object",
    }
}

/// Bytes of a body that an error shows.
const SUMMARY_BYTES_MAX: usize = 30;

/// The beginning of a body in hex, as upstream shows it.
fn summary(body: &[u8]) -> String {
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let hex: Vec<String> =
        body.iter().take(SUMMARY_BYTES_MAX).map(|byte| format!("{byte:02x}")).collect();
    let more = if body.len() > SUMMARY_BYTES_MAX { " ..." } else { "" };
    format!("{}{more}", hex.join(" "))
}
