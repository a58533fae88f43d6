//! PUT, and what every change of a stored object goes through.

use atoll_api::access::Access as _;
use atoll_api::field::{self, Path};
use atoll_api::kinds::{ResourceInfo, UpdateHooks, metadata};
use serde_json::{Value, json};

use crate::admission::{self, Operation, quota};
use crate::allocate;
use crate::call::Call;
use crate::create::{self, Managing};
use crate::decode::{self, Expected};
use crate::delete;
use crate::managed;
use crate::negotiate;
use crate::query::WriteOptions;
use crate::render::Answer;
use crate::status::Status;
use crate::storage::{self, Stored, Written};
use crate::turns::Attempts;

const MANAGED_FIELDS: &str = "managedFields";

/// Which rules a change of the object follows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    Main,
    Status,
    Hooks(UpdateHooks),
}

/// One attempt to change an object.
#[derive(Debug)]
pub(crate) enum Attempt {
    Done(Answer),
    /// Somebody else was faster: read again.
    Retry,
}

impl Part {
    /// The rules of the part that the URL names.
    pub(crate) fn of(call: &Call) -> Option<Self> {
        let Some(part) = &call.part else { return Some(Self::Main) };
        match part.update {
            Some(hooks) => Some(Self::Hooks(hooks)),
            None if part.name == "status" => Some(Self::Status),
            None => None,
        }
    }

    fn prepare(self, row: &ResourceInfo, new: &mut Value, old: &Value) {
        match self {
            Self::Main => row.prepare_update(new, old),
            Self::Status => row.prepare_status_update(new, old),
            Self::Hooks(hooks) => {
                metadata::carry_over(new, old);
                (hooks.prepare)(new, old);
            }
        }
    }

    fn validate(self, row: &ResourceInfo, new: &Value, old: &Value) -> Vec<field::Error> {
        match self {
            Self::Main => row.validate_update(new, old),
            Self::Status => row.validate_status_update(new, old),
            Self::Hooks(hooks) => {
                let mut errors = atoll_api::validate::metadata::update(new, old);
                if let Some(check) = hooks.validate {
                    errors.extend(check(new, old));
                }
                errors
            }
        }
    }
}

pub(crate) async fn update(call: &Call) -> Result<Answer, Status> {
    let options = call.query.write_options("UpdateOptions")?;
    let part = Part::of(call).ok_or_else(Status::method_not_allowed)?;
    let format = negotiate::body_format(&call.headers)?;
    let expected = Expected::of_row(&call.row);
    let incoming = decode::object(&expected, &call.body, format, options.field_validation)?;
    let mut object = incoming.object;
    check_identity(call, &mut object)?;
    let managing = Managing::Track;
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let Some(stored) = call.core.storage.get(&call.row, call.namespace(), call.name()).await?
        else {
            if call.row.hooks.create_on_update && matches!(part, Part::Main) {
                call.may_create()?;
                create::check_place_is_free(call, &object)?;
                let answer = create::insert(call, object, &options, managing).await?;
                return Ok(answer.with_warnings(incoming.warnings));
            }
            return Err(call.not_found());
        };
        let old = call.decode(&stored).await?;
        check_revision(call, &object, &stored)?;
        // One that states no revision changes the present one.
        let mut new = object.clone();
        storage::set_revision(&mut new, stored.revision);
        let attempt = write_back(call, &stored, &old, new, part, &options, managing).await?;
        if let Attempt::Done(answer) = attempt {
            return Ok(answer.with_warnings(incoming.warnings));
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

/// Name and namespace of the body must be those of the URL.
pub(crate) fn check_identity(call: &Call, object: &mut Value) -> Result<(), Status> {
    create::check_place(call, object)?;
    let name = object["metadata"].text("name");
    if name.is_empty() {
        return Err(Status::bad_request(
            "the name of the object ( based on URL) was undeterminable: name must be provided",
        ));
    }
    if name != call.name() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.name()
        )));
    }
    Ok(())
}

/// The body may state which revision it changes; kinds that must be told refuse without.
fn check_revision(call: &Call, new: &Value, stored: &Stored) -> Result<(), Status> {
    let stated = new["metadata"].text("resourceVersion");
    if stated.is_empty() || stated == "0" {
        if call.row.hooks.unconditional_update {
            return Ok(());
        }
        let error = Path::new("metadata")
            .child("resourceVersion")
            .invalid(json!(0), "must be specified for an update");
        return Err(Status::invalid(&call.row, call.name(), &[error]));
    }
    if stated != stored.revision.to_string() {
        return Err(Status::modified(&call.row, call.name()));
    }
    Ok(())
}

/// Takes a changed object through preparation, admission and validation into the store.
pub(crate) async fn write_back(
    call: &Call,
    stored: &Stored,
    old: &Value,
    mut new: Value,
    part: Part,
    options: &WriteOptions,
    managing: Managing,
) -> Result<Attempt, Status> {
    check_uid(call, &new, old)?;
    create::drop_repeated_owners(call, &mut new);
    let warnings = complete(call, old, &mut new, part, options, managing).await?;
    storage::set_revision(&mut new, stored.revision);
    if new == *old || is_same_but_for_times(&new, old) {
        return Ok(Attempt::Done(Answer::ok(old.clone()).with_warnings(warnings)));
    }
    let mut extra = allocate::on_update(call, old, &mut new).await?;
    if options.dry_run {
        quota::check(call, Some(old), &new).await?;
        return Ok(Attempt::Done(Answer::ok(new).with_warnings(warnings)));
    }
    extra.lease = call.core.leases.of(&call.core, &call.row).await?;
    let key = storage::key(&call.row, call.namespace(), call.name());
    let gone = delete::is_finished(&call.row, &new);
    let written = if gone {
        extra.extend(allocate::on_delete(call, &new));
        call.core.storage.delete(key, stored.revision, extra).await?
    } else {
        let value = call.encode(&new).await?;
        quota::update(call, (old, &new), key, stored.revision, value, extra).await?
    };
    match written {
        Written::Done(revision) => {
            if !gone {
                storage::set_revision(&mut new, revision);
            }
            Ok(Attempt::Done(Answer::ok(new).with_warnings(warnings)))
        }
        Written::Changed(_) | Written::Contended => Ok(Attempt::Retry),
    }
}

/// Whether nothing differs but when managers wrote: whoever states again what is there has changed
/// nothing (upstream's `IgnoreManagedFieldsTimestampsTransformer`).
fn is_same_but_for_times(new: &Value, old: &Value) -> bool {
    // What most changes change is looked at first, and costs no copy.
    if !is_same_but_for(new, old, &["metadata", MANAGED_FIELDS]) {
        return false;
    }
    let (now, then) = (&new["metadata"][MANAGED_FIELDS], &old["metadata"][MANAGED_FIELDS]);
    let timeless = |fields: &Value| {
        let mut fields = fields.clone();
        for manager in fields.as_array_mut().into_iter().flatten() {
            if let Value::Object(manager) = manager {
                manager.remove("time");
            }
        }
        fields
    };
    timeless(now) == timeless(then)
}

/// Whether two objects are equal in all but the field at this path.
fn is_same_but_for(new: &Value, old: &Value, path: &[&str]) -> bool {
    let (Value::Object(new), Value::Object(old)) = (new, old) else { return new == old };
    let Some((first, rest)) = path.split_first() else { return true };
    let others =
        |map: &serde_json::Map<String, Value>| map.len() - usize::from(map.contains_key(*first));
    let within = match (new.get(*first), old.get(*first)) {
        (Some(new), Some(old)) if !rest.is_empty() => is_same_but_for(new, old, rest),
        (new, old) => rest.is_empty() || new == old,
    };
    within
        && others(new) == others(old)
        && new
            .iter()
            .filter(|(name, _)| name != first)
            .all(|(name, value)| old.get(name) == Some(value))
}

fn check_uid(call: &Call, new: &Value, old: &Value) -> Result<(), Status> {
    let (stated, own) = (new["metadata"].text("uid"), old["metadata"].text("uid"));
    if stated.is_empty() || stated == own {
        return Ok(());
    }
    Err(Status::conflict(
        &call.row,
        call.name(),
        format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {stated}, UID in object meta: {own}",
            String::from_utf8_lossy(&storage::key(&call.row, call.namespace(), call.name()))
        ),
    ))
}

/// Everything between decoding and the store; returns warnings.
async fn complete(
    call: &Call,
    old: &Value,
    new: &mut Value,
    part: Part,
    options: &WriteOptions,
    managing: Managing,
) -> Result<Vec<String>, Status> {
    let row = &call.row;
    row.default(new);
    part.prepare(row, new, old);
    if managing == Managing::Track {
        managed::track(call, Some(old), new, options)?;
    }
    let request = call.admission(Operation::Update, call.name(), Some(old), options.dry_run);
    admission::admit(&call.core, &request, new).await?;
    row.default(new);
    let errors = part.validate(row, new, old);
    if !errors.is_empty() {
        return Err(Status::invalid(row, call.name(), &errors));
    }
    admission::validate(&call.core, &request, new).await?;
    Ok(row.warnings(new, Some(old)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_times_of_managers_make_no_change() {
        let of = |data: &str, manager: &str, time: &str| {
            json!({"data": {"a": data}, "metadata": {"name": "x", "managedFields": [
                {"manager": manager, "time": time}]}})
        };
        let old = of("1", "me", "2026-01-01T00:00:00Z");
        assert!(is_same_but_for_times(&of("1", "me", "2026-01-01T00:00:09Z"), &old));
        assert!(!is_same_but_for_times(&of("2", "me", "2026-01-01T00:00:09Z"), &old));
        assert!(!is_same_but_for_times(&of("1", "other", "2026-01-01T00:00:00Z"), &old));
        let mut more = old.clone();
        more["metadata"]["labels"] = json!({});
        assert!(!is_same_but_for_times(&more, &old) && !is_same_but_for_times(&old, &more));
        let mut none = old.clone();
        none["metadata"].as_object_mut().unwrap().remove("managedFields");
        assert!(!is_same_but_for_times(&none, &old), "who owned it is another matter");
    }
}
