//! POST: a new object, or the answer to a question that is asked by creating one.

use atoll_api::access::Access as _;
use atoll_api::kinds::metadata;
use rand::Rng as _;
use serde_json::{Value, json};

use crate::admission::{self, Operation, quota};
use crate::allocate;
use crate::call::Call;
use crate::decode::{self, Expected};
use crate::extension::{self, VirtualCreate, VirtualHandler};
use crate::managed;
use crate::namespace;
use crate::negotiate;
use crate::query::WriteOptions;
use crate::render::Answer;
use crate::status::Status;
use crate::storage::{self, Written};

/// Attempts to find a free generated name or allocation.
const ATTEMPTS_MAX: usize = 8;
/// Seconds until a create that met others each time is worth sending again.
const RETRY_AFTER_S: u32 = 1;
/// Letters and digits of generated names, upstream's: no vowels, so no words.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// Bytes of `generateName` that are kept.
const PREFIX_BYTES_MAX: usize = 63 - SUFFIX_LENGTH;

/// How managedFields of a new object come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Managing {
    /// The writer owns what it wrote.
    Track,
    /// Server-side apply has filled them in already.
    Done,
}

pub(crate) async fn create(call: &Call) -> Result<Answer, Status> {
    let options = call.query.write_options("CreateOptions")?;
    let format = negotiate::body_format(&call.headers)?;
    let expected = Expected::of_row(&call.row);
    let incoming = decode::object(&expected, &call.body, format, options.field_validation)?;
    let answer = if call.row.virtual_only {
        answer_virtual(call, incoming.object, &options).await?
    } else {
        let managing = Managing::Track;
        insert(call, incoming.object, &options, managing).await?
    };
    Ok(answer.with_warnings(incoming.warnings))
}

/// Of a write that would create what it changes: not where its kind goes, and not where it means
/// an object that was there before.
pub(crate) fn check_place_is_free(call: &Call, wanted: &Value) -> Result<(), Status> {
    if call.row.is_ending() {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::forbidden(&call.row, call.name(), why));
    }
    match wanted["metadata"].text("uid") {
        "" => Ok(()),
        uid => Err(Status::uid_on_create(&call.row, call.name(), uid)),
    }
}

/// An owner that stands there twice counts once, and whoever wrote it hears of it.
pub(crate) fn drop_repeated_owners(call: &Call, object: &mut Value) {
    let Some(owners) =
        object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut)
    else {
        return;
    };
    let mut repeated: Vec<String> = Vec::new();
    let all = std::mem::take(owners);
    for owner in all {
        if owners.contains(&owner) {
            let uid = owner.text("uid").to_owned();
            if !repeated.contains(&uid) {
                repeated.push(uid);
            }
        } else {
            owners.push(owner);
        }
    }
    if !repeated.is_empty() {
        call.notes.warn(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner \
             references in 1.20+, and may reject such requests as early as 1.24; please fix your \
             requests; duplicate UID(s) observed: {}",
            repeated.join(", ")
        ));
    }
}

async fn answer_virtual(
    call: &Call,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Answer, Status> {
    check_place(call, &mut object)?;
    call.row.default(&mut object);
    call.row.prepare_create(&mut object);
    if let Some(check) = call.row.hooks.validate_create {
        let errors = check(&object);
        if !errors.is_empty() {
            return Err(Status::invalid(&call.row, "", &errors));
        }
    }
    let handler = virtual_handler(call).ok_or_else(Status::no_resource)?;
    let request = VirtualCreate {
        user: &call.user,
        namespace: call.namespace(),
        name: call.name(),
        object,
        dry_run: options.dry_run,
    };
    let mut object = handler(&call.core, request).await?;
    // An answer of another kind is a Status.
    if object.get("kind").is_none_or(|kind| *kind != "Status") {
        storage::set_type(&mut object, &call.row.api_version(), &call.row.kind);
    }
    Ok(Answer::created(object))
}

/// Who answers creates of this row or part without storing anything.
pub(crate) fn virtual_handler(call: &Call) -> Option<VirtualHandler> {
    let (row, part) = (&call.row, call.subresource());
    extension::VIRTUAL
        .iter()
        .find(|(group, resource, subresource, _)| {
            *group == row.group && *resource == row.resource && *subresource == part
        })
        .map(|(_, _, _, handler)| *handler)
}

/// Stores a new object; `object` is decoded, its defaults not yet set.
pub(crate) async fn insert(
    call: &Call,
    mut object: Value,
    options: &WriteOptions,
    managing: Managing,
) -> Result<Answer, Status> {
    check_place(call, &mut object)?;
    let (mut name, mut generated) = (String::new(), false);
    for attempt in 0..ATTEMPTS_MAX {
        let mut candidate = object.clone();
        generated = generate_name(&mut candidate);
        candidate["metadata"].text("name").clone_into(&mut name);
        let warnings = complete(call, &mut candidate, options, managing).await?;
        let mut extra = namespace::guard(call, attempt > 0).await?;
        extra.extend(allocate::on_create(call, &mut candidate, attempt).await?);
        if options.dry_run {
            quota::check(call, None, &candidate).await?;
            return dry(call, &name, candidate, warnings).await;
        }
        if call.info.verb == "create"
            && !matches!(object["metadata"].text("resourceVersion"), "" | "0")
        {
            return Err(Status::version_on_create());
        }
        extra.lease = call.core.leases.of(&call.core, &call.row).await?;
        let key = storage::key(&call.row, call.namespace(), &name);
        let value = call.encode(&candidate).await?;
        match quota::create(call, &candidate, key, value, extra).await? {
            Written::Done(revision) => {
                storage::set_revision(&mut candidate, revision);
                return Ok(Answer::created(candidate).with_warnings(warnings));
            }
            Written::Changed(_) if !generated => {
                return Err(Status::already_exists(&call.row, &name));
            }
            Written::Changed(_) | Written::Contended => {}
        }
    }
    if generated {
        return Err(Status::generated_name_taken(&call.row, &name));
    }
    let others = "what it needs was given to others each time that it was tried; try again";
    Err(Status::too_many_requests(
        format!("{} {name:?}: {others}", call.row.qualified_resource()),
        RETRY_AFTER_S,
    ))
}

/// Everything between decoding and the store; returns warnings.
async fn complete(
    call: &Call,
    object: &mut Value,
    options: &WriteOptions,
    managing: Managing,
) -> Result<Vec<String>, Status> {
    let row = &call.row;
    drop_repeated_owners(call, object);
    row.default(object);
    // As upstream: what the server fills in below belongs to nobody.
    if managing == Managing::Track {
        managed::track(call, None, object, options)?;
    }
    row.prepare_create(object);
    let owned = metadata::of(object);
    owned.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    owned.insert("creationTimestamp".to_owned(), json!(call.core.now_text()));
    if let Some(identified) = row.hooks.identified {
        identified(object);
    }
    let name = object["metadata"].text("name").to_owned();
    let request = call.admission(Operation::Create, &name, None, options.dry_run);
    admission::admit(&call.core, &request, object).await?;
    row.default(object);
    let errors = row.validate_create(object);
    if !errors.is_empty() {
        return Err(Status::invalid(row, &name, &errors));
    }
    admission::validate(&call.core, &request, object).await?;
    Ok(row.warnings(object, None))
}

/// A dry run finds out whether the name is taken, and writes nothing.
async fn dry(
    call: &Call,
    name: &str,
    object: Value,
    warnings: Vec<String>,
) -> Result<Answer, Status> {
    if call.core.storage.get(&call.row, call.namespace(), name).await?.is_some() {
        return Err(Status::already_exists(&call.row, name));
    }
    Ok(Answer::created(object).with_warnings(warnings))
}

/// The object must be meant for the namespace of the URL; it takes over what it leaves out.
pub(crate) fn check_place(call: &Call, object: &mut Value) -> Result<(), Status> {
    let namespace = call.namespace();
    let own = metadata::of(object);
    let stated = own.get("namespace").and_then(Value::as_str).unwrap_or("");
    if !call.row.namespaced() {
        // A cluster-scoped object states none; upstream drops it without a word.
        own.remove("namespace");
        return Ok(());
    }
    if !stated.is_empty() && stated != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if namespace.is_empty() {
        return Err(Status::bad_request("an empty namespace may not be set during creation"));
    }
    own.insert("namespace".to_owned(), json!(namespace));
    Ok(())
}

/// Makes a name from `generateName` where there is none.
fn generate_name(object: &mut Value) -> bool {
    let own = metadata::of(object);
    let named = own.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    let base = own.get("generateName").and_then(Value::as_str).unwrap_or("");
    if named || base.is_empty() {
        return false;
    }
    let mut end = base.len().min(PREFIX_BYTES_MAX);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base.get(..end).unwrap_or(base).to_owned();
    name.push_str(&random_suffix(SUFFIX_LENGTH));
    own.insert("name".to_owned(), json!(name));
    true
}

/// Random letters as in generated names.
pub(crate) fn random_suffix(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length)
        .filter_map(|_| SUFFIX_LETTERS.get(rng.random_range(0..SUFFIX_LETTERS.len())))
        .map(|letter| char::from(*letter))
        .collect()
}
