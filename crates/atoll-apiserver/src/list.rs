//! GET of one object and of many, by every rule of resourceVersion.

use std::sync::Arc;

use atoll_api::field::{self, Path};
use atoll_api::tree;
use atoll_store::kv::{KeyRange, RangeRequest, Revision, prefix_end};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::json;

use crate::cache::{Entry, ResourceCache};
use crate::call::Call;
use crate::render::ListMeta;
use crate::selection::Selection;
use crate::status::Status;
use crate::{query, storage};

/// Objects read from the store at once while a selection is thin.
const PAGE_MAX: usize = 1000;

/// From which revision the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Sees every write acknowledged before the request.
    Latest,
    /// Whatever is in memory.
    Any,
    NotOlderThan(Revision),
    Exact(Revision),
}

/// In a token: at whatever revision there is.
const LATEST: Revision = -1;

/// How long a list may be continued. Upstream's store forgets what is older (five minutes, the
/// default of kube-apiserver's `--etcd-compaction-interval`), and clients are tried with that; ours may
/// know it for longer, and nobody shall depend on when.
const CONTINUED_SECS: i64 = 300;

/// A place in a list and the revision at which it was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Continue {
    revision: Revision,
    /// What follows the list's prefix.
    start: String,
    /// When the list was begun, in seconds since 1970; 0 is of a server that did not say.
    since: i64,
}

pub(crate) async fn get(call: &Call) -> Result<Bytes, Status> {
    let entry = find(call).await?.ok_or_else(|| call.not_found())?;
    call.ready(std::slice::from_ref(&entry)).await?;
    call.view().entry(&entry)
}

/// The object that the URL names, as fresh as the request asks.
pub(crate) async fn find(call: &Call) -> Result<Option<Arc<Entry>>, Status> {
    let cache = cache(call)?;
    match revision_parameter(call, |error| Status::server_error(error.to_string()))? {
        Some(0) => return Ok(cache.get(call.namespace(), call.name())),
        Some(revision) => {
            call.core.registry.wait_for(revision).await?;
            return Ok(cache.get(call.namespace(), call.name()));
        }
        None => {}
    }
    let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
    let Some(stored) = stored else { return Ok(None) };
    let key = storage::suffix(call.namespace(), call.name());
    entry(&cache, &key, stored.revision, &stored.value).map(Some)
}

/// The cached entry when it is of this revision, else one made from the stored bytes.
fn entry(
    cache: &ResourceCache,
    key: &str,
    revision: Revision,
    value: &[u8],
) -> Result<Arc<Entry>, Status> {
    let (namespace, name) = key.rsplit_once('/').unwrap_or(("", key));
    if let Some(entry) = cache.get(namespace, name).filter(|entry| entry.revision == revision) {
        return Ok(entry);
    }
    Entry::decode(cache.row(), key, revision, value).map(Arc::new)
}

pub(crate) fn cache(call: &Call) -> Result<Arc<ResourceCache>, Status> {
    call.core.registry.cache(&call.row).ok_or_else(Status::method_not_allowed)
}

pub(crate) async fn list(call: &Call) -> Result<Bytes, Status> {
    let (entries, meta) = select(call).await?;
    call.view().list(&entries, &meta)
}

/// Everything that the selectors match, consistently.
pub(crate) async fn select_all(call: &Call) -> Result<(Vec<Arc<Entry>>, Revision), Status> {
    let selection = Selection::parse(call)?;
    let known = call.core.registry.catch_up().await?;
    let (mut entries, revision) = cache(call)?.list_at(call.namespace(), known);
    call.ready(&entries).await?;
    entries.retain(|entry| selection.matches(&call.row, entry));
    Ok((entries, revision))
}

async fn select(call: &Call) -> Result<(Vec<Arc<Entry>>, ListMeta), Status> {
    let selection = Selection::parse(call)?;
    let limit = call.query.number("limit")?.unwrap_or(0);
    call.query.number("timeoutSeconds")?;
    let limit = usize::try_from(limit).unwrap_or(0);
    let wanted = wanted(call, limit)?;
    if let Some(token) = call.query.get("continue").filter(|token| !token.is_empty()) {
        let mut token = Continue::decode(token)?;
        let now = call.core.now().as_second();
        if token.revision == LATEST {
            token.revision = call.core.storage.revision().await?;
            token.since = now;
        }
        if token.since > 0 && now > token.since.saturating_add(CONTINUED_SECS) {
            return Err(inconsistent(token.start));
        }
        call.core.registry.wait_for(token.revision).await?;
        return page(call, &selection, limit, token).await;
    }
    let cache = cache(call)?;
    let known = match wanted {
        Wanted::Any => call.core.registry.revision(),
        Wanted::Latest => call.core.registry.catch_up().await?,
        Wanted::NotOlderThan(revision) => {
            call.core.registry.wait_for(revision).await?;
            call.core.registry.revision()
        }
        Wanted::Exact(revision) => {
            call.core.registry.wait_for(revision).await?;
            let token = begun(call, revision);
            return page(call, &selection, limit, token).await;
        }
    };
    // The version 0 takes the whole list from memory, as upstream's cache does.
    let limit = if wanted == Wanted::Any { 0 } else { limit };
    let (entries, revision) = cache.list_at(call.namespace(), known);
    call.ready(&entries).await?;
    Ok(first_page(call, &selection, entries, revision, limit))
}

fn first_page(
    call: &Call,
    selection: &Selection,
    mut entries: Vec<Arc<Entry>>,
    revision: Revision,
    limit: usize,
) -> (Vec<Arc<Entry>>, ListMeta) {
    if !selection.is_everything() {
        entries.retain(|entry| selection.matches(&call.row, entry));
    }
    let mut meta = ListMeta { revision, ..ListMeta::default() };
    if limit > 0 && entries.len() > limit {
        let more = entries.len() - limit;
        entries.truncate(limit);
        if let Some(last) = entries.last() {
            meta.continue_token = token_after(call, &last.key, &begun(call, revision));
        }
        meta.remaining = selection.is_everything().then_some(more as u64);
    }
    (entries, meta)
}

/// A page of the list as it was at the token's revision, from the store's history.
async fn page(
    call: &Call,
    selection: &Selection,
    limit: usize,
    token: Continue,
) -> Result<(Vec<Arc<Entry>>, ListMeta), Status> {
    let cache = cache(call)?;
    let prefix = list_prefix(call);
    let all = storage::prefix(&call.row);
    let end = prefix_end(prefix.as_bytes());
    let mut start = Bytes::from(format!("{prefix}{}", token.start));
    let mut meta = ListMeta { revision: token.revision, ..ListMeta::default() };
    let mut entries = Vec::new();
    loop {
        let mut request =
            RangeRequest::new(KeyRange { key: start.clone(), end: Some(end.clone()) });
        request.revision = Some(token.revision);
        request.limit = if limit == 0 { 0 } else { (limit - entries.len()).min(PAGE_MAX) };
        let answer = call.core.storage.kv().range(request).await;
        let answer = answer.map_err(|error| past(call, &error, &start))?;
        let Some(last) = answer.kvs.last().map(|kv| kv.key.clone()) else { break };
        let read = answer.kvs.len() as u64;
        for kv in &answer.kvs {
            let key = String::from_utf8_lossy(kv.key.get(all.len()..).unwrap_or_default());
            let entry = entry(&cache, &key, kv.mod_revision, &kv.value)?;
            call.ready(std::slice::from_ref(&entry)).await?;
            if selection.matches(&call.row, &entry) {
                entries.push(entry);
            }
        }
        if !answer.more {
            break;
        }
        let last = String::from_utf8_lossy(last.get(all.len()..).unwrap_or_default()).into_owned();
        if limit > 0 && entries.len() >= limit {
            meta.continue_token = token_after(call, &last, &token);
            meta.remaining = selection.is_everything().then_some(answer.count.saturating_sub(read));
            break;
        }
        start = Bytes::from(format!("{all}{last}\0"));
    }
    Ok((entries, meta))
}

/// A page of a revision that the store has forgotten. A list that was begun may go on with
/// what is there now, which is not consistent; the client must ask for that.
fn past(call: &Call, error: &atoll_store::kv::Error, start: &[u8]) -> Status {
    if !matches!(error, atoll_store::kv::Error::Compacted { .. }) {
        return Status::store(error);
    }
    if call.query.text("continue").is_empty() {
        return Status::expired("The resourceVersion for the provided list is too old.");
    }
    let prefix = list_prefix(call);
    let start = start.get(prefix.len()..).unwrap_or_default();
    let start = String::from_utf8_lossy(start).into_owned();
    inconsistent(start)
}

fn inconsistent(start: String) -> Status {
    Status::inconsistent_continue(Continue { revision: LATEST, start, since: 0 }.encode())
}

/// A list that begins now.
fn begun(call: &Call, revision: Revision) -> Continue {
    Continue { revision, start: String::new(), since: call.core.now().as_second() }
}

/// What all keys of the list begin with.
fn list_prefix(call: &Call) -> String {
    format!("{}{}", storage::prefix(&call.row), namespace_prefix(call))
}

/// `ns/` in front of the names of one namespace.
fn namespace_prefix(call: &Call) -> String {
    match call.namespace() {
        "" => String::new(),
        namespace => format!("{namespace}/"),
    }
}

fn token_after(call: &Call, key: &str, list: &Continue) -> String {
    let prefix = namespace_prefix(call);
    let start = format!("{}\0", key.strip_prefix(prefix.as_str()).unwrap_or(key));
    Continue { start, ..list.clone() }.encode()
}

/// For the fuzzer: a token that was read is written as one that is read the same.
pub(crate) fn fuzz_continue(token: &str) {
    if let Ok(read) = Continue::decode(token) {
        let again = Continue::decode(&read.encode()).map(|again| (again.revision, again.start));
        assert!(again.is_ok_and(|again| again == (read.revision, read.start)));
    }
}

impl Continue {
    fn encode(&self) -> String {
        let mut token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start});
        if self.since > 0 {
            token["since"] = json!(self.since);
        }
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Self, Status> {
        let bad = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| {
            bad(&format!("illegal base64 data at input byte {}", at(&error, token)))
        })?;
        let token = tree::from_json(&bytes).map_err(|error| bad(&error.to_string()))?.object;
        let version = token["v"].as_str().unwrap_or("");
        if version != "meta.k8s.io/v1" {
            let why = format!("server does not recognize this encoded version {version}");
            return Err(bad(&why));
        }
        let start = token["start"].as_str().unwrap_or("").to_owned();
        let revision = token["rv"].as_i64().unwrap_or(0);
        if revision == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        // Nothing that leads out of the list, or to no key at all.
        let key = start.strip_prefix('/').unwrap_or(&start);
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(&start));
        }
        let since = token["since"].as_i64().unwrap_or(0).max(0);
        Ok(Self { revision: revision.max(LATEST), start: key.to_owned(), since })
    }
}

/// Where Go's decoder stops in a text that is no base64.
fn at(error: &base64::DecodeError, text: &str) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            *at
        }
        _ => text.len(),
    }
}

/// The parameter `resourceVersion`; `None` when it is absent or empty. Upstream's verbs put
/// the same error into different answers, which `refuse` makes.
pub(crate) fn revision_parameter(
    call: &Call,
    refuse: impl FnOnce(field::Error) -> Status,
) -> Result<Option<Revision>, Status> {
    let text = call.query.text("resourceVersion");
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<u64>() {
        // A version that no store reaches is in the future, as upstream sees it.
        Ok(revision) => Ok(Some(Revision::try_from(revision).unwrap_or(Revision::MAX))),
        Err(error) => {
            let why = query::go_parse_error("ParseUint", text, &error);
            Err(refuse(Path::new("resourceVersion").invalid(text, why)))
        }
    }
}

fn wanted(call: &Call, limit: usize) -> Result<Wanted, Status> {
    let revision = revision_parameter(call, |error| {
        Status::bad_request(format!("invalid resource version: {error}"))
    })?;
    let matching = call.query.text("resourceVersionMatch");
    let continued = !call.query.text("continue").is_empty();
    let mut errors = match_errors(matching, revision, continued);
    if call.query.get("sendInitialEvents").is_some() {
        let at = Path::new("sendInitialEvents");
        errors.push(at.forbidden("sendInitialEvents is forbidden for list"));
    }
    if !errors.is_empty() {
        return Err(Status::invalid_kind("meta.k8s.io", "ListOptions", "", &errors));
    }
    if continued && revision.is_some_and(|revision| revision != 0) {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    Ok(match (revision, matching) {
        (None, _) => Wanted::Latest,
        (Some(0), _) => Wanted::Any,
        (Some(revision), "Exact") => Wanted::Exact(revision),
        // Without a word on matching, a limit means the revision exactly.
        (Some(revision), "") if limit > 0 => Wanted::Exact(revision),
        (Some(revision), _) => Wanted::NotOlderThan(revision),
    })
}

fn match_errors(matching: &str, revision: Option<Revision>, continued: bool) -> Vec<field::Error> {
    let at = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if matching.is_empty() {
        return errors;
    }
    if revision.is_none() {
        errors.push(
            at.forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
        );
    }
    if continued {
        errors.push(at.forbidden("resourceVersionMatch is forbidden when continue is provided"));
    }
    if matching != "Exact" && matching != "NotOlderThan" {
        errors.push(at.not_supported(matching, &["Exact", "NotOlderThan", ""]));
    }
    if matching == "Exact" && revision == Some(0) {
        errors.push(
            at.forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""),
        );
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way_to_the_client_and_back() {
        for since in [0, 1_700_000_000] {
            let token = Continue { revision: 7379, start: "name\0".to_owned(), since };
            assert_eq!(Continue::decode(&token.encode()), Ok(token));
        }
    }

    #[test]
    fn a_token_cannot_leave_its_list() {
        for start in ["", "/../x", "../x", "a/../../x", "a//x", "a/."] {
            let token = Continue { revision: 1, start: start.to_owned(), since: 0 };
            assert!(Continue::decode(&token.encode()).is_err(), "{start}");
        }
        assert!(Continue::decode("nonsense!").is_err());
    }

    #[test]
    fn matching_needs_a_version() {
        assert_eq!(match_errors("Exact", None, false).len(), 1);
        assert_eq!(match_errors("Exact", Some(0), false).len(), 1);
        assert_eq!(match_errors("NotOlderThan", Some(5), true).len(), 1);
        assert!(match_errors("", None, true).is_empty());
    }
}
