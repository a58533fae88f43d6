//! `scale`: the replicas of an object under one interface, whatever its kind.

use atoll_api::access::Access as _;
use atoll_api::kinds::scale;
use serde_json::Value;

use super::{decode, part_of};
use crate::call::Call;
use crate::create::Managing;
use crate::decode::Expected;
use crate::managed;
use crate::patch::{self, Format, Patch};
use crate::query::WriteOptions;
use crate::render::Answer;
use crate::status::Status;
use crate::storage::Stored;
use crate::turns::Attempts;
use crate::update::{self, Attempt, Part};

pub(super) async fn serve(call: &Call) -> Result<Answer, Status> {
    match call.info.verb {
        "get" => {
            let (_, object) = read(call).await?;
            Ok(Answer::ok(call.row.scale(&object)))
        }
        "update" => put(call).await,
        "patch" => change(call).await,
        _ => Err(Status::method_not_allowed()),
    }
}

async fn read(call: &Call) -> Result<(Stored, Value), Status> {
    let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
    let stored = stored.ok_or_else(|| call.not_found())?;
    let object = call.decode(&stored).await?;
    Ok((stored, object))
}

async fn put(call: &Call) -> Result<Answer, Status> {
    let options = call.query.write_options("UpdateOptions")?;
    let mut incoming = decode(call, part_of(call)?, &options)?;
    update::check_identity(call, &mut incoming.object)?;
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let (stored, old) = read(call).await?;
        if let Attempt::Done(answer) =
            write(call, &stored, &old, &incoming.object, &options).await?
        {
            return Ok(answer.with_warnings(incoming.warnings));
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

async fn change(call: &Call) -> Result<Answer, Status> {
    let patch = Patch::decode(call)?;
    let options = patch::options(call, patch.format)?;
    let expected = Expected::of_part(&call.row, part_of(call)?);
    if patch.format == Format::Apply {
        return apply(call, &expected, &patch, &options).await;
    }
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let (stored, old) = read(call).await?;
        let (new, warnings) = patch.apply_to(&expected, &call.row.scale(&old), &options)?;
        if let Attempt::Done(answer) = write(call, &stored, &old, &new, &options).await? {
            return Ok(answer.with_warnings(warnings));
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

/// The replicas of the object have an owner like any field: a configuration of the Scale is
/// one of the object that states nothing else.
async fn apply(
    call: &Call,
    expected: &Expected,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<Answer, Status> {
    let mut config = patch.body.clone();
    patch::check_config(call, expected, &mut config)?;
    managed::check(expected, &config)?;
    let errors = scale::validate(&config);
    if !errors.is_empty() {
        return Err(Status::invalid_kind("autoscaling", "Scale", call.name(), &errors));
    }
    let stated = config["metadata"].text("resourceVersion");
    let mut attempts = Attempts::new(call);
    while attempts.next().await {
        let (stored, old) = read(call).await?;
        if !stated.is_empty() && stated != stored.revision.to_string() {
            return Err(Status::modified(&call.row, call.name()));
        }
        let own = call.row.scale_configuration(&config);
        let new = managed::apply(call, Some(&old), &own, options)?;
        let (part, managing) = (Part::Main, Managing::Done);
        let attempt = update::write_back(call, &stored, &old, new, part, options, managing).await?;
        if let Attempt::Done(answer) = attempt {
            return Ok(Answer { object: call.row.scale(&answer.object), ..answer });
        }
    }
    Err(Status::modified(&call.row, call.name()))
}

async fn write(
    call: &Call,
    stored: &Stored,
    old: &Value,
    wanted: &Value,
    options: &WriteOptions,
) -> Result<Attempt, Status> {
    let errors = scale::validate(wanted);
    if !errors.is_empty() {
        return Err(Status::invalid_kind("autoscaling", "Scale", call.name(), &errors));
    }
    let stated = wanted["metadata"].text("resourceVersion");
    if !stated.is_empty() && stated != stored.revision.to_string() {
        return Err(Status::modified(&call.row, call.name()));
    }
    let mut new = old.clone();
    call.row.put_scale(&mut new, wanted);
    let managing = Managing::Track;
    let attempt = update::write_back(call, stored, old, new, Part::Main, options, managing).await?;
    Ok(match attempt {
        Attempt::Done(answer) => {
            Attempt::Done(Answer { object: call.row.scale(&answer.object), ..answer })
        }
        Attempt::Retry => Attempt::Retry,
    })
}
