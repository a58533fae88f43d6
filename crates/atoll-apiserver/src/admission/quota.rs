//! The plugin `ResourceQuota`, which charges in the transaction of the object.
//!
//! What an object uses is added to the status of every quota that covers it by the write that
//! stores the object, and only if the quota still stands as it was read. So a limit is never
//! passed, however many servers create at once, and nothing is charged for what was not stored.
//! Release is the controller's business: it counts anew, and its own write fails when something
//! was charged meanwhile.

use atoll_api::access::Access as _;
use atoll_api::kinds::quota::amounts::{self, Amounts};
use atoll_api::kinds::quota::{exceeded, scopes, usage};
use atoll_api::kinds::{self, ResourceInfo};
use atoll_store::kv::Revision;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::call::Call;
use crate::status::Status;
use crate::storage::{self, Extra, Stored, Written};

/// Writes that other servers may win before a client hears of it. Within one server writers
/// that are charged to the same namespace take turns.
const ATTEMPTS_MAX: usize = 100;
/// What goes with the object into its transaction.
#[derive(Default)]
struct Charge {
    extra: Extra,
    /// The quotas that are charged, as they stood.
    revisions: Vec<(String, Revision)>,
    _turn: Option<OwnedMutexGuard<()>>,
}

/// Refuses a new object, or the growth of a changed one, that its quotas have no room for: for
/// dry runs, which charge nothing.
pub(crate) async fn check(call: &Call, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    charge(call, old, new).await.map(drop)
}

/// Stores a new object and charges it in one.
pub(crate) async fn create(
    call: &Call,
    object: &Value,
    key: Bytes,
    value: Bytes,
    extra: Extra,
) -> Result<Written, Status> {
    let storage = &call.core.storage;
    charged(call, None, object, extra, |extra| storage.create(key.clone(), value.clone(), extra))
        .await
}

/// Stores a changed object and charges what it grew by in one.
pub(crate) async fn update(
    call: &Call,
    change: (&Value, &Value),
    key: Bytes,
    expected: Revision,
    value: Bytes,
    extra: Extra,
) -> Result<Written, Status> {
    let storage = &call.core.storage;
    let write = |extra| storage.update(key.clone(), expected, value.clone(), extra);
    charged(call, Some(change.0), change.1, extra, write).await
}

/// Charges anew as long as others charge the same quotas first.
async fn charged<F>(
    call: &Call,
    old: Option<&Value>,
    new: &Value,
    extra: Extra,
    write: impl Fn(Extra) -> F,
) -> Result<Written, Status>
where
    F: Future<Output = Result<Written, Status>>,
{
    let mut before = Vec::new();
    for _ in 0..ATTEMPTS_MAX {
        let Charge { extra: own, revisions, _turn } = charge(call, old, new).await?;
        if !before.is_empty() && revisions == before {
            // No quota has changed, so something else of the transaction has.
            return Ok(Written::Contended);
        }
        let mut all = extra.clone();
        all.extend(own);
        match write(all).await? {
            Written::Contended if !revisions.is_empty() => before = revisions,
            other => return Ok(other),
        }
    }
    Ok(Written::Contended)
}

async fn charge(call: &Call, old: Option<&Value>, new: &Value) -> Result<Charge, Status> {
    let namespace = call.namespace();
    if namespace.is_empty() || !is_charged(call, old) {
        return Ok(Charge::default());
    }
    let Some(row) = kinds::find("", "v1", "resourcequotas") else { return Ok(Charge::default()) };
    let Some(cache) = call.core.registry.cache(row) else { return Ok(Charge::default()) };
    let entries = cache.list(namespace);
    if entries.is_empty() {
        return Ok(Charge::default());
    }
    let Some(asked) = asked(call, old, new) else { return Ok(Charge::default()) };
    let turn = call.core.quotas.take(namespace).await;
    let mut charge = Charge { _turn: Some(turn), ..Charge::default() };
    for entry in &entries {
        let one = One { call, row, name: entry.name(), asked: &asked, object: new };
        one.charge(&mut charge).await?;
    }
    Ok(charge)
}

/// Creates, and those updates that can make an object grow.
fn is_charged(call: &Call, old: Option<&Value>) -> bool {
    let (row, part) = (&call.row, call.subresource());
    // Events are never counted, as upstream.
    if row.virtual_only || row.resource == "events" {
        return false;
    }
    match (old, row.group.is_empty(), part) {
        (None, _, "") => true,
        (Some(_), true, "") => {
            row.resource == "services" || row.resource == "persistentvolumeclaims"
        }
        (Some(_), true, "resize") => row.resource == "pods",
        _ => false,
    }
}

/// `None` when an update grows in nothing.
fn asked(call: &Call, old: Option<&Value>, new: &Value) -> Option<Amounts> {
    let now = call.core.now();
    let count = |object: &Value| usage::of(&call.row.group, &call.row.resource, object, now);
    let Some(old) = old else { return Some(count(new)) };
    let more = amounts::growth(&count(new), &count(old));
    (!more.is_empty()).then_some(more)
}

/// One object against one quota.
struct One<'a> {
    call: &'a Call,
    row: &'static ResourceInfo,
    name: &'a str,
    asked: &'a Amounts,
    object: &'a Value,
}

impl One<'_> {
    async fn charge(&self, charge: &mut Charge) -> Result<(), Status> {
        // From the store: memory may lag behind the turn before.
        let Some((revision, mut quota)) = self.read().await? else { return Ok(()) };
        if !scopes::covers(&quota, &self.call.row.group, &self.call.row.resource, self.object) {
            return Ok(());
        }
        let hard = amounts::read(&quota["status"]["hard"]);
        let wanted = amounts::read(&quota["spec"]["hard"]);
        let concerns = |limits: &Amounts| limits.keys().any(|name| self.asked.contains_key(name));
        let limited = self.limited(&hard);
        if limited.is_empty() && !concerns(&wanted) {
            return Ok(());
        }
        let used = amounts::read(&quota["status"]["used"]);
        self.check(&limited, &hard, &used)?;
        let mut total = used;
        amounts::add(&mut total, &self.of_limited(&hard));
        total.retain(|name, _| hard.contains_key(name));
        // Where the controller has not counted yet, the write alone makes it count once more.
        if !hard.is_empty() {
            quota["status"]["used"] = amounts::write(&total);
        }
        let key = storage::key(self.row, self.call.namespace(), self.name);
        let value = storage::encode(self.row, &quota)?;
        charge.extra.replace(key, revision, value);
        charge.revisions.push((self.name.to_owned(), revision));
        Ok(())
    }

    async fn read(&self) -> Result<Option<(Revision, Value)>, Status> {
        let namespace = self.call.namespace();
        let stored: Option<Stored> =
            self.call.core.storage.get(self.row, namespace, self.name).await?;
        let Some(stored) = stored else { return Ok(None) };
        Ok(Some((stored.revision, stored.object(self.row)?)))
    }

    /// The limits that are about what is asked for, or that a pod must state something for.
    fn limited<'a>(&self, hard: &'a Amounts) -> Vec<&'a String> {
        let pod = self.is_pod();
        hard.keys()
            .filter(|name| self.asked.contains_key(*name) || (pod && of_pods(name)))
            .collect()
    }

    fn is_pod(&self) -> bool {
        self.call.row.group.is_empty() && self.call.row.resource == "pods"
    }

    fn of_limited(&self, hard: &Amounts) -> Amounts {
        let asked = self.asked.iter().filter(|(name, _)| hard.contains_key(*name));
        asked.map(|(name, amount)| (name.clone(), *amount)).collect()
    }

    fn check(&self, limited: &[&String], hard: &Amounts, used: &Amounts) -> Result<(), Status> {
        let refuse = |why: String| {
            let name = self.object["metadata"].text("name");
            Err(Status::forbidden(&self.call.row, name, why))
        };
        let quota = self.name;
        if self.is_pod()
            && let Some(missing) = usage::missing(self.object, limited)
        {
            return refuse(format!("failed quota: {quota}: {missing}"));
        }
        let asked = self.of_limited(hard);
        let unknown: Vec<&str> =
            asked.keys().filter(|name| !used.contains_key(*name)).map(String::as_str).collect();
        if !unknown.is_empty() {
            let names = unknown.join(",");
            return refuse(format!("status unknown for quota: {quota}, resources: {names}"));
        }
        let over = exceeded(hard, used, &asked);
        if over.is_empty() {
            return Ok(());
        }
        let only = |amounts: &Amounts| {
            let shown: Amounts = amounts
                .iter()
                .filter(|(name, _)| over.contains(name))
                .map(|(name, amount)| (name.clone(), *amount))
                .collect();
            amounts::text(&shown)
        };
        refuse(format!(
            "exceeded quota: {quota}, requested: {}, used: {}, limited: {}",
            only(&asked),
            only(used),
            only(hard)
        ))
    }
}

/// Limits that pods must state amounts for.
fn of_pods(name: &str) -> bool {
    matches!(
        name,
        "cpu" | "memory" | "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory"
    )
}
