//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use atoll_api::access::Access as _;
use atoll_api::field::Path;
use atoll_api::{patch, tree};
use serde_json::Value;

use crate::call::Call;
use crate::create::{self, Managing};
use crate::decode::{self, Blamed, Expected};
use crate::managed;
use crate::negotiate;
use crate::query::{FieldValidation, WriteOptions};
use crate::render::Answer;
use crate::status::Status;
use crate::storage::Stored;
use crate::turns::Attempts;
use crate::update::{self, Attempt, Part};

/// The patch formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// A patch, decoded.
#[derive(Debug)]
pub(crate) struct Patch {
    pub format: Format,
    pub body: Value,
    duplicates: Vec<String>,
    /// What upstream says of a configuration with keys that stand twice; empty without.
    repeated: String,
}

impl Patch {
    pub(crate) fn decode(call: &Call) -> Result<Self, Status> {
        let format = match negotiate::content_type(&call.headers) {
            "application/json-patch+json" => Format::Json,
            "application/merge-patch+json" => Format::Merge,
            // Custom resources have no strategies to merge by.
            "application/strategic-merge-patch+json" if call.row.custom.is_some() => {
                return Err(Status::unsupported_custom_patch());
            }
            "application/strategic-merge-patch+json" => Format::Strategic,
            "application/apply-patch+yaml" => Format::Apply,
            _ => return Err(Status::unsupported_patch()),
        };
        let decoded = if format == Format::Apply {
            tree::from_yaml(&call.body)
                .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?
        } else {
            tree::from_json(&call.body)
                .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?
        };
        let repeated = match format {
            Format::Apply if !decoded.duplicates.is_empty() => repeated(&call.body),
            _ => String::new(),
        };
        Ok(Self { format, body: decoded.object, duplicates: decoded.duplicates, repeated })
    }

    /// Refuses a configuration whose keys stand twice, or warns of them, as the client asked.
    fn check_repeated(&self, options: &WriteOptions) -> Result<Vec<String>, Status> {
        match options.field_validation {
            _ if self.repeated.is_empty() => Ok(Vec::new()),
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(vec![self.repeated.replace("\n ", "")]),
            FieldValidation::Strict => {
                Err(Status::bad_request(format!("error strict decoding YAML: {}", self.repeated)))
            }
        }
    }

    /// The object with the patch applied, and its warnings.
    pub(crate) fn apply_to(
        &self,
        expected: &Expected,
        current: &Value,
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>), Status> {
        let mut object = current.clone();
        match self.format {
            Format::Json => {
                patch::json(&mut object, &self.body).map_err(|error| json_patch_error(&error))?;
            }
            Format::Merge => patch::merge(&mut object, &self.body),
            Format::Strategic => {
                let schema = expected.schema().ok_or_else(Status::unsupported_patch)?;
                patch::strategic(schema, &mut object, &self.body)
                    .map_err(|error| Status::bad_request(error.to_string()))?;
            }
            Format::Apply => return Err(Status::unsupported_patch()),
        }
        let validation = options.field_validation;
        let duplicates = self.duplicates.clone();
        let blamed = match self.format {
            Format::Strategic => Blamed::Patch(&self.body),
            _ => Blamed::Result,
        };
        let warnings = decode::patched(expected, &mut object, duplicates, validation, blamed)?;
        Ok((object, warnings))
    }
}

pub(crate) async fn patch(call: &Call) -> Result<Answer, Status> {
    let part = Part::of(call).ok_or_else(Status::method_not_allowed)?;
    let patch = Patch::decode(call)?;
    let options = options(call, patch.format)?;
    if patch.format == Format::Apply {
        return apply(call, &patch, part, &options).await;
    }
    let expected = Expected::of_row(&call.row);
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let (stored, old) = read(call).await?.ok_or_else(|| call.not_found())?;
        let (new, warnings) = patch.apply_to(&expected, &old, &options)?;
        check_patched(call, &new, &stored)?;
        let managing = Managing::Track;
        let attempt =
            update::write_back(call, &stored, &old, new, part, &options, managing).await?;
        if let Attempt::Done(answer) = attempt {
            return Ok(answer.with_warnings(warnings));
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

async fn apply(
    call: &Call,
    patch: &Patch,
    part: Part,
    options: &WriteOptions,
) -> Result<Answer, Status> {
    let mut config = patch.body.clone();
    check_config(call, &Expected::of_row(&call.row), &mut config)?;
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let Some((stored, old)) = read(call).await? else {
            if !matches!(part, Part::Main) {
                return Err(call.not_found());
            }
            call.may_create()?;
            create::check_place_is_free(call, &config)?;
            let new = managed::apply(call, None, &config, options)?;
            let warnings = patch.check_repeated(options)?;
            match create::insert(call, new, options, Managing::Done).await {
                // Somebody created it in between: it is a change now.
                Err(status) if status.is_already_exists() => continue,
                other => return other.map(|answer| answer.with_warnings(warnings)),
            }
        };
        let stated = config["metadata"].text("resourceVersion");
        if !stated.is_empty() && stated != stored.revision.to_string() {
            return Err(Status::modified(&call.row, call.name()));
        }
        let new = managed::apply(call, Some(&old), &config, options)?;
        let warnings = patch.check_repeated(options)?;
        let attempt =
            update::write_back(call, &stored, &old, new, part, options, Managing::Done).await?;
        if let Attempt::Done(answer) = attempt {
            return Ok(answer.with_warnings(warnings));
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

/// The lines of the keys that stand twice, in the words of Go's YAML.
fn repeated(body: &[u8]) -> String {
    let Ok(keys) = tree::repeated_keys(body) else { return String::new() };
    let lines = keys.iter().map(|(line, key)| {
        format!("\n  line {line}: key {} already set in map", atoll_api::field::quote(key))
    });
    let lines: String = lines.collect();
    format!("error converting YAML to JSON: yaml: unmarshal errors:{lines}")
}

/// The configuration must name what the URL names.
pub(crate) fn check_config(
    call: &Call,
    expected: &Expected,
    config: &mut Value,
) -> Result<(), Status> {
    if !config.is_object() {
        return Err(Status::bad_request("error decoding YAML: the patch is no object"));
    }
    let (version, kind) = (config.text("apiVersion"), config.text("kind"));
    if version != expected.api_version() || kind != expected.kind {
        return Err(Status::bad_request(format!(
            "failed to create typed patch object: the configuration is {version}, Kind={kind}; the \
             URL is that of {}, Kind={}",
            expected.api_version(),
            expected.kind
        )));
    }
    let metadata = atoll_api::kinds::metadata::of(config);
    metadata.entry("name").or_insert_with(|| Value::from(call.name()));
    update::check_identity(call, config)
}

async fn read(call: &Call) -> Result<Option<(Stored, Value)>, Status> {
    let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
    let Some(stored) = stored else { return Ok(None) };
    let old = call.decode(&stored).await?;
    Ok(Some((stored, old)))
}

/// A patch that states another resourceVersion than the object's asks for a conflict.
fn check_patched(call: &Call, new: &Value, stored: &Stored) -> Result<(), Status> {
    let stated = new["metadata"].text("resourceVersion");
    if !stated.is_empty() && stated != stored.revision.to_string() {
        return Err(Status::modified(&call.row, call.name()));
    }
    Ok(())
}

pub(crate) fn options(call: &Call, format: Format) -> Result<WriteOptions, Status> {
    let options = call.query.write_options("PatchOptions")?;
    let mut errors = Vec::new();
    if format == Format::Apply {
        if options.field_manager.is_empty() {
            let at = Path::new("fieldManager");
            errors.push(at.required("is required for apply patch"));
        }
    } else if options.force.is_some() {
        let at = Path::new("force");
        errors.push(at.forbidden("may not be specified for non-apply patch"));
    }
    if errors.is_empty() {
        return Ok(options);
    }
    Err(Status::invalid_kind("meta.k8s.io", "PatchOptions", "", &errors))
}

/// A patch that cannot be read is the request's fault in form, one that does not apply in
/// content.
fn json_patch_error(error: &patch::PatchError) -> Status {
    if error.is_malformed() {
        return Status::bad_request(format!("error decoding patch: {error}"));
    }
    Status::unprocessable()
}
