//! DELETE: grace periods, finalizers, propagation, preconditions; one object or many.

use atoll_api::access::Access as _;
use atoll_api::field::{self, Path};
use atoll_api::kinds::{ResourceInfo, metadata};
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::admission::{self, Operation};
use crate::allocate;
use crate::call::Call;
use crate::core::timestamp;
use crate::decode::{self, Expected};
use crate::list;
use crate::negotiate;
use crate::query;
use crate::render::{Answer, ListMeta};
use crate::status::{self, Status};
use crate::storage::{self, Stored, Written};
use crate::turns::Attempts;

/// Deletes of one `deletecollection` that run at once.
const COLLECTION_WORKERS: usize = 8;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Kinds whose delete answers the object that was there; the others answer a Status.
const ANSWERS_OBJECT: [(&str, &str); 7] = [
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
];

/// metav1.DeleteOptions.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
    /// Admission has seen what leads to this delete, and is not asked about it.
    pub admitted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl DeleteOptions {
    /// From the body, or from the query when there is none.
    pub(crate) fn decode(call: &Call) -> Result<Self, Status> {
        let expected = Expected::of_kind("", "v1", "DeleteOptions");
        let mut options = json!({});
        if !call.body.is_empty() {
            let format = negotiate::body_format(&call.headers)?;
            let is_known = |version: &str| {
                version == "meta.k8s.io/v1" || call.core.registry.has_version(version)
            };
            options = decode::options(&expected, &call.body, format, is_known)?;
        } else {
            if let Some(seconds) = call.query.number("gracePeriodSeconds")? {
                options["gracePeriodSeconds"] = json!(seconds);
            }
            if let Some(policy) = call.query.get("propagationPolicy") {
                options["propagationPolicy"] = json!(policy);
            }
            if let Some(orphan) = call.query.opt_flag("orphanDependents") {
                options["orphanDependents"] = json!(orphan);
            }
        }
        let dry: Vec<&str> = call.query.all("dryRun").collect();
        Self::read(&options, &dry)
    }

    /// As admission shows them.
    fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_seconds {
            value["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(propagation) = self.propagation {
            value["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        for (field, text) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(text) = text {
                value["preconditions"][field] = json!(text);
            }
        }
        if self.dry_run {
            value["dryRun"] = json!(["All"]);
        }
        value
    }

    /// `dry` are the values of the query, which count like those of the body.
    pub(crate) fn read(options: &Value, dry: &[&str]) -> Result<Self, Status> {
        let mut errors = Vec::new();
        let body_dry = options.items("dryRun").iter().filter_map(Value::as_str);
        let dry_run = query::dry_run(body_dry.chain(dry.iter().copied()), &mut errors);
        let propagation = propagation(options, &mut errors);
        let preconditions = &options["preconditions"];
        let grace_seconds = options.int("gracePeriodSeconds");
        if errors.is_empty() {
            return Ok(Self {
                grace_seconds,
                propagation,
                uid: preconditions.opt_text("uid").map(str::to_owned),
                resource_version: preconditions.opt_text("resourceVersion").map(str::to_owned),
                dry_run,
                admitted: false,
            });
        }
        Err(Status::invalid_kind("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}

fn propagation(options: &Value, errors: &mut Vec<field::Error>) -> Option<Propagation> {
    let orphan = options.opt_flag("orphanDependents");
    let policy = options.opt_text("propagationPolicy").filter(|policy| !policy.is_empty());
    let at = Path::new("propagationPolicy");
    if let (Some(_), Some(policy)) = (orphan, policy) {
        errors.push(
            at.invalid(policy, "orphanDependents and deletionPropagation cannot be both set"),
        );
    }
    match policy {
        None => {
            orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background })
        }
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some("Orphan") => Some(Propagation::Orphan),
        Some(other) => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(at.not_supported(other, &supported));
            None
        }
    }
}

pub(crate) async fn delete(call: &Call) -> Result<Answer, Status> {
    let options = DeleteOptions::decode(call)?;
    warn(call, &options);
    one(call, call.name(), call.namespace(), &options).await
}

/// Deletes what a list with the same selectors would show; answers that list.
pub(crate) async fn collection(call: &Call) -> Result<Answer, Status> {
    let options = DeleteOptions::decode(call)?;
    warn(call, &options);
    let (entries, revision) = list::select_all(call).await?;
    let mut objects = Vec::new();
    for entry in &entries {
        objects.push(entry.object(&call.row)?);
    }
    let deletes: Vec<_> = entries
        .iter()
        .map(|entry| async {
            match one(call, entry.name(), entry.namespace(), &options).await {
                Err(status) if status.is_not_found() => Ok(()),
                other => other.map(|_| ()),
            }
        })
        .collect();
    futures::stream::iter(deletes)
        .buffer_unordered(COLLECTION_WORKERS)
        .try_collect::<Vec<()>>()
        .await?;
    // As in a list: what is of no built-in type says what it is.
    for object in objects.iter_mut().filter(|_| call.row.custom.is_none()) {
        if let Value::Object(map) = object {
            map.remove("kind");
            map.remove("apiVersion");
        }
    }
    let meta = ListMeta { revision, ..ListMeta::default() };
    Ok(Answer::ok(json!({
        "kind": call.row.list_kind,
        "apiVersion": call.row.api_version(),
        "metadata": meta.to_value(),
        "items": objects,
    })))
}

/// Who deletes a Job by the API alone may not expect that its pods stay.
fn warn(call: &Call, options: &DeleteOptions) {
    if options.propagation.is_none() && call.row.group == "batch" && call.row.resource == "jobs" {
        call.notes.warn(
            "child pods are preserved by default when jobs are deleted; set \
             propagationPolicy=Background to remove them or set propagationPolicy=Orphan to \
             suppress this warning",
        );
    }
}

/// Deletes one object, or marks it as going away.
pub(crate) async fn one(
    call: &Call,
    name: &str,
    namespace: &str,
    options: &DeleteOptions,
) -> Result<Answer, Status> {
    let mut attempts = Attempts::on(&call.core, &call.row, namespace, name);
    while attempts.next().await {
        let stored = call.core.storage.get(&call.row, namespace, name).await?;
        let stored = stored.ok_or_else(|| Status::not_found(&call.row, name))?;
        let old = call.decode(&stored).await?;
        check_preconditions(&call.row, name, &old, &stored, options)?;
        if !options.admitted {
            admit(call, name, namespace, &old, options).await?;
        }
        let mut new = old.clone();
        let mark = mark(call, &mut new, options);
        if mark == Mark::Pending && new == old {
            return Ok(Answer::ok(old));
        }
        if options.dry_run {
            return Ok(answer(&call.row, name, &old, (mark != Mark::Gone).then_some(new)));
        }
        let key = storage::key(&call.row, namespace, name);
        let mut revision = stored.revision;
        if mark != Mark::Gone {
            let value = call.encode(&new).await?;
            let extra = storage::Extra::default();
            let written = call.core.storage.update(key.clone(), revision, value, extra).await?;
            let Written::Done(marked) = written else { continue };
            storage::set_revision(&mut new, marked);
            revision = marked;
        }
        if mark != Mark::Pending {
            let extra = allocate::on_delete(call, &old);
            let written = call.core.storage.delete(key, revision, extra).await?;
            let Written::Done(_) = written else { continue };
        }
        return Ok(answer(&call.row, name, &old, (mark != Mark::Gone).then_some(new)));
    }
    Err(Status::modified(&call.row, name))
}

async fn admit(
    call: &Call,
    name: &str,
    namespace: &str,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let shown = options.to_value();
    let mut request = call.admission(Operation::Delete, name, Some(old), options.dry_run);
    request.namespace = namespace;
    request.options = &shown;
    let mut seen = old.clone();
    admission::admit(&call.core, &request, &mut seen).await?;
    admission::validate(&call.core, &request, old).await
}

fn answer(row: &ResourceInfo, name: &str, old: &Value, pending: Option<Value>) -> Answer {
    if let Some(object) = pending {
        return Answer::ok(object);
    }
    if ANSWERS_OBJECT.contains(&(&*row.group, &*row.resource)) {
        return Answer::ok(old.clone());
    }
    Answer::ok(status::success(row, name, old["metadata"].text("uid")))
}

/// What a delete makes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// It stays, marked, until its grace period or its finalizers are over.
    Pending,
    /// It has a grace period by its kind, and this one is none: it goes at once, but marked, so that
    /// its last state says so, as upstream's does.
    Last,
    Gone,
}

fn mark(call: &Call, object: &mut Value, options: &DeleteOptions) -> Mark {
    let now = call.core.now();
    let graceful = call.row.hooks.graceful_delete;
    let grace = graceful.and_then(|graceful| graceful(object, options.grace_seconds));
    let grace = grace.unwrap_or(0).max(0);
    let marked_before = object["metadata"].has("deletionTimestamp");
    if let Some(prepare) = call.row.hooks.prepare_delete.filter(|_| !marked_before) {
        prepare(object);
    }
    let marked_grace = object["metadata"].int("deletionGracePeriodSeconds").unwrap_or(0);
    let policy = policy_of(&call.row, object, options.propagation);
    propagate(object, policy);
    let waits = if marked_before {
        // A second delete can only shorten the time that is left.
        let shortens = options.grace_seconds.is_some() && grace < marked_grace;
        if shortens {
            set_deletion(object, first_deleted(object).unwrap_or(now), grace);
        }
        marked_grace > 0 && !(shortens && grace == 0)
    } else {
        grace > 0
    };
    if !marked_before && (waits || holds(&call.row, object)) {
        set_deletion(object, now, grace);
        raise_generation(object);
        terminate(&call.row, object);
    }
    if waits || holds(&call.row, object) {
        return Mark::Pending;
    }
    if graceful.is_none() || marked_before {
        return Mark::Gone;
    }
    set_deletion(object, now, 0);
    raise_generation(object);
    Mark::Last
}

/// When an object that is marked was deleted first: from then on its grace period counts, however
/// often it is shortened.
fn first_deleted(object: &Value) -> Option<jiff::Timestamp> {
    let own = &object["metadata"];
    let ends: jiff::Timestamp = own.text("deletionTimestamp").parse().ok()?;
    let grace = own.int("deletionGracePeriodSeconds").unwrap_or(0);
    ends.checked_sub(SignedDuration::from_secs(grace)).ok()
}

fn set_deletion(object: &mut Value, now: jiff::Timestamp, grace: i64) {
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    let own = metadata::of(object);
    own.insert("deletionTimestamp".to_owned(), json!(timestamp(at)));
    own.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
}

fn raise_generation(object: &mut Value) {
    if let Some(generation) = object["metadata"].int("generation").filter(|at| *at > 0) {
        metadata::of(object).insert("generation".to_owned(), json!(generation + 1));
    }
}

/// What nobody says is the kind's own policy, unless a finalizer says it already.
fn policy_of(
    row: &ResourceInfo,
    object: &Value,
    stated: Option<Propagation>,
) -> Option<Propagation> {
    let finalizers = object["metadata"].items("finalizers");
    let is_said = finalizers.iter().any(|one| *one == FOREGROUND || *one == ORPHAN);
    let own = (row.hooks.orphans_dependents && !is_said).then_some(Propagation::Orphan);
    stated.or(own)
}

/// The finalizers that stand for a propagation policy; without a policy they stay.
fn propagate(object: &mut Value, policy: Option<Propagation>) {
    let Some(policy) = policy else { return };
    let wanted = match policy {
        Propagation::Background => None,
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Orphan => Some(ORPHAN),
    };
    let mut finalizers: Vec<Value> = object["metadata"]
        .items("finalizers")
        .iter()
        .filter(|one| *one != FOREGROUND && *one != ORPHAN)
        .cloned()
        .collect();
    finalizers.extend(wanted.map(Value::from));
    let own = metadata::of(object);
    if finalizers.is_empty() {
        own.remove("finalizers");
    } else {
        own.insert("finalizers".to_owned(), Value::Array(finalizers));
    }
}

/// Whether something must happen before the object may go.
fn holds(row: &ResourceInfo, object: &Value) -> bool {
    let own = &object["metadata"];
    let spec_holds = is_namespace(row) && !object["spec"].items("finalizers").is_empty();
    !own.items("finalizers").is_empty() || spec_holds
}

/// An object on its way out that nothing holds any more: an update that makes it so is its
/// deletion.
pub(crate) fn is_finished(row: &ResourceInfo, object: &Value) -> bool {
    let own = &object["metadata"];
    own.has("deletionTimestamp")
        && own.int("deletionGracePeriodSeconds").unwrap_or(0) == 0
        && !holds(row, object)
}

fn terminate(row: &ResourceInfo, object: &mut Value) {
    if is_namespace(row) {
        object["status"]["phase"] = json!("Terminating");
    }
}

/// The one kind whose spec has finalizers of its own.
fn is_namespace(row: &ResourceInfo) -> bool {
    row.group.is_empty() && row.resource == "namespaces"
}

fn check_preconditions(
    row: &ResourceInfo,
    name: &str,
    old: &Value,
    stored: &Stored,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let tail = "The object might have been deleted and then recreated";
    let uid = old["metadata"].text("uid");
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). {tail}"
        );
        return Err(Status::conflict(row, name, why));
    }
    let revision = stored.revision.to_string();
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != revision) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion \
             in record ({revision}). The object might have been modified"
        );
        return Err(Status::conflict(row, name, why));
    }
    Ok(())
}
