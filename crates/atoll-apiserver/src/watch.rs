//! WATCH: the changes of a selection, as lines of JSON or frames of protobuf, for as long as
//! the client listens.
//!
//! A watch is a position in the cache's ring and nothing more; a client that reads too slowly
//! falls behind the ring and is told to list again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::field::{self, Path};
use atoll_api::proto;
use atoll_store::kv::Revision;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use hyper::upgrade::OnUpgrade;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::authn::TOKEN_PROTOCOL;
use crate::body::{Body, BoxError};
use crate::cache::{Change, ChangeKind, Entry, ResourceCache};
use crate::call::Call;
use crate::list;
use crate::negotiate::{Format, MetaVersion, Shape};
use crate::render::{full_bytes, protobuf};
use crate::selection::Selection;
use crate::status::Status;
use crate::stream::frames;
use crate::table;

/// Between two bookmarks; upstream's is about a minute as well.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client does not say: this, and up to as much again.
const TIMEOUT_MIN: Duration = Duration::from_secs(1800);
/// How long before its end a watch sends its last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Bytes of events that go out as one chunk.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

pub(crate) async fn watch(
    call: Call,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let stream = Stream::open(Arc::new(call)).await?;
    if let Some(client) = upgrade.filter(|_| frames::is_asked(&stream.call.headers)) {
        return over_socket(stream, client);
    }
    let content_type = match stream.call.accept.format {
        Format::Json => HeaderValue::from_static("application/json"),
        Format::Protobuf => {
            HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch")
        }
        Format::Yaml => return Err(Status::not_acceptable()),
    };
    let lines = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((Ok::<Bytes, BoxError>(chunk), stream))
    });
    let mut response = Response::new(Body::stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

/// Each event as a message of its own: text where it is JSON. No protocol is needed, and the
/// first that a client names is as good as any, but for the one that carries its token.
fn over_socket(stream: Stream, client: OnUpgrade) -> Result<Response<Body>, Status> {
    let call = stream.call.clone();
    let offered = call.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let protocol = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .find(|name| !name.is_empty() && !name.starts_with(TOKEN_PROTOCOL))
        .and_then(|name| HeaderValue::from_str(name).ok());
    let format = call.accept.format;
    let messages = futures::stream::unfold(stream, |mut stream| async move {
        let chunk = stream.next().await?;
        Some((chunk, stream))
    });
    let messages = messages.flat_map(move |chunk| futures::stream::iter(events(chunk, format)));
    frames::switch(&call, client, protocol, messages.map(Ok))
}

/// The events of a chunk, one by one.
fn events(mut chunk: Bytes, format: Format) -> Vec<(u8, Bytes)> {
    let mut events = Vec::new();
    while !chunk.is_empty() {
        let event = match format {
            // Framed by its length, which a message has anyway.
            Format::Protobuf => {
                let length = chunk.split_to(chunk.len().min(4));
                let length = length.iter().fold(0, |all, byte| all << 8 | usize::from(*byte));
                (frames::BINARY_FRAME, chunk.split_to(chunk.len().min(length)))
            }
            Format::Json | Format::Yaml => {
                let end = chunk.iter().position(|byte| *byte == b'\n');
                (frames::TEXT_FRAME, chunk.split_to(end.map_or(chunk.len(), |end| end + 1)))
            }
        };
        events.push(event);
    }
    events
}

struct Stream {
    call: Arc<Call>,
    cache: Arc<ResourceCache>,
    selection: Selection,
    latest: watch::Receiver<Revision>,
    /// Everything up to this revision has been sent.
    position: Revision,
    /// Objects to send as ADDED before any change.
    initial: VecDeque<Arc<Entry>>,
    /// A bookmark that ends the initial objects is due.
    initial_end: bool,
    bookmarks: bool,
    bookmark_at: Instant,
    last_bookmark_sent: bool,
    ends_at: Instant,
    /// The first Table of a watch carries the columns.
    columns_sent: bool,
    over: bool,
}

enum Wake {
    Changed,
    Bookmark,
    End,
}

impl Stream {
    async fn open(call: Arc<Call>) -> Result<Self, Status> {
        let selection = Selection::parse(&call)?;
        let cache = list::cache(&call)?;
        let start = Start::read(&call)?;
        let now = Instant::now();
        let mut stream = Self {
            latest: cache.subscribe(),
            bookmarks: call.query.flag("allowWatchBookmarks"),
            ends_at: now + timeout(&call)?,
            call,
            cache,
            selection,
            position: 0,
            initial: VecDeque::new(),
            initial_end: false,
            bookmark_at: now + BOOKMARK_EVERY,
            last_bookmark_sent: false,
            columns_sent: false,
            over: false,
        };
        stream.begin(start).await?;
        Ok(stream)
    }

    async fn begin(&mut self, start: Start) -> Result<(), Status> {
        let registry = &self.call.core.registry;
        let known = match start.revision {
            Some(0) => registry.revision(),
            None => registry.catch_up().await?,
            Some(revision) => {
                registry.wait_for(revision).await?;
                registry.revision()
            }
        };
        if !start.initial {
            self.position = start.revision.unwrap_or(known);
            return Ok(());
        }
        let (entries, revision) = self.cache.list_at(self.call.namespace(), known);
        self.call.ready(&entries).await?;
        let selected = entries.into_iter().filter(|entry| self.selected(entry));
        self.initial = selected.collect();
        self.position = revision;
        self.initial_end = start.initial_end && self.bookmarks;
        Ok(())
    }

    /// The next chunk of lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // A busy watch ends in time as a quiet one does.
            let ended = self.call.core.stop.is_cancelled() || Instant::now() >= self.ends_at;
            if self.over || ended {
                return None;
            }
            if let Err(status) = self.convert().await {
                let mut chunk = BytesMut::new();
                self.error(&mut chunk, &status);
                return Some(chunk.freeze());
            }
            let chunk = self.gather();
            if !chunk.is_empty() {
                return Some(chunk);
            }
            // The resource went, or changed its form: the client comes again.
            if self.cache.is_closed() {
                return None;
            }
            match self.sleep().await {
                Wake::Changed => {}
                Wake::End => return None,
                Wake::Bookmark => {
                    let mut chunk = BytesMut::new();
                    self.bookmark(&mut chunk, false);
                    return Some(chunk.freeze());
                }
            }
        }
    }

    async fn sleep(&mut self) -> Wake {
        let last = self.ends_at - LAST_BOOKMARK;
        let bookmark_at = match (self.bookmarks, self.last_bookmark_sent) {
            (true, false) => self.bookmark_at.min(last),
            (true, true) => self.bookmark_at,
            (false, _) => self.ends_at + BOOKMARK_EVERY,
        };
        tokio::select! {
            biased;
            () = self.call.core.stop.cancelled() => Wake::End,
            changed = self.latest.changed() => match changed {
                Ok(()) => Wake::Changed,
                Err(_) => Wake::End,
            },
            () = tokio::time::sleep_until(bookmark_at) => {
                self.last_bookmark_sent |= bookmark_at >= last;
                self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                Wake::Bookmark
            }
            () = tokio::time::sleep_until(self.ends_at) => Wake::End,
        }
    }

    /// Has what comes next converted, where a webhook does that.
    async fn convert(&self) -> Result<(), Status> {
        if self.call.row.custom.as_ref().is_none_or(|custom| custom.webhook.is_none()) {
            return Ok(());
        }
        let Ok(changes) = self.cache.changes_after(self.position) else { return Ok(()) };
        let mut entries = Vec::new();
        for change in changes {
            entries.push(change.entry.clone());
            entries.extend(change.old.clone());
            entries.extend(change.left());
        }
        self.call.ready(&entries).await
    }

    /// What there is to send right now.
    fn gather(&mut self) -> Bytes {
        let mut chunk = BytesMut::new();
        while let Some(entry) = self.initial.pop_front() {
            self.event(&mut chunk, "ADDED", &entry);
            if chunk.len() >= CHUNK_BYTES_MAX {
                return chunk.freeze();
            }
        }
        if std::mem::take(&mut self.initial_end) {
            self.bookmark(&mut chunk, true);
        }
        self.latest.mark_unchanged();
        while chunk.len() < CHUNK_BYTES_MAX {
            let known = self.call.core.registry.revision();
            match self.cache.changes_after(self.position) {
                Ok(changes) if changes.is_empty() => {
                    self.position = self.position.max(known);
                    break;
                }
                Ok(changes) => {
                    for change in changes {
                        self.position = change.revision;
                        self.change(&mut chunk, &change);
                    }
                }
                Err(too_old) => {
                    let status = Status::expired(format!(
                        "too old resource version: {} ({})",
                        too_old.asked, too_old.oldest
                    ));
                    self.error(&mut chunk, &status);
                    break;
                }
            }
        }
        chunk.freeze()
    }

    fn selected(&self, entry: &Entry) -> bool {
        let namespace = self.call.namespace();
        (namespace.is_empty() || entry.namespace() == namespace)
            && self.selection.matches(&self.call.row, entry)
    }

    /// What a change is to this watcher depends on whether it saw the object before.
    fn change(&mut self, chunk: &mut BytesMut, change: &Change) {
        let was = change.old.as_ref().is_some_and(|old| self.selected(old));
        let is = change.kind != ChangeKind::Deleted && self.selected(&change.entry);
        match (was, is) {
            (false, true) => self.event(chunk, "ADDED", &change.entry),
            (true, true) => self.event(chunk, "MODIFIED", &change.entry),
            (true, false) if change.kind == ChangeKind::Deleted => {
                self.event(chunk, "DELETED", &change.entry);
            }
            (true, false) => {
                if let Some(left) = change.left() {
                    self.event(chunk, "DELETED", &left);
                }
            }
            (false, false) => {}
        }
    }

    fn event(&mut self, chunk: &mut BytesMut, kind: &str, entry: &Entry) {
        match self.object(entry) {
            Ok(object) => self.put(chunk, kind, &object),
            Err(status) => self.error(chunk, &status),
        }
    }

    fn object(&mut self, entry: &Entry) -> Result<Bytes, Status> {
        let row = &self.call.row;
        let view = self.call.view();
        match view.accept.shape {
            Shape::Full if view.messages() => protobuf::object(row, entry),
            Shape::Full => full_bytes(row, &entry.json_for(row)?),
            Shape::Table { version } if self.columns_sent => {
                self.bytes(&table::without_columns(&view, version, &entry.object(row)?))
            }
            Shape::Table { .. } | Shape::PartialMetadata { .. } => {
                let object = self.bytes(&view.object(entry.object(row)?));
                self.columns_sent = true;
                object
            }
        }
    }

    fn bookmark(&mut self, chunk: &mut BytesMut, initial_end: bool) {
        let known = self.call.core.registry.revision();
        if self.cache.changes_after(self.position).is_ok_and(|changes| changes.is_empty()) {
            self.position = self.position.max(known);
        }
        let row = &self.call.row;
        let mut object = json!({
            "kind": row.kind,
            "apiVersion": row.api_version(),
            "metadata": {"resourceVersion": self.position.to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.call.accept.shape {
            Shape::Full => object,
            Shape::PartialMetadata { version } => crate::render::partial(version, &object),
            Shape::Table { version } => bookmark_table(version, &object),
        };
        if let Ok(object) = self.bytes(&object) {
            self.put(chunk, "BOOKMARK", &object);
        }
    }

    fn error(&mut self, chunk: &mut BytesMut, status: &Status) {
        if let Ok(object) = self.bytes(&status.to_value()) {
            self.put(chunk, "ERROR", &object);
        }
        self.over = true;
    }

    /// An event around the bytes of its object.
    fn put(&self, chunk: &mut BytesMut, kind: &str, object: &[u8]) {
        match self.call.accept.format {
            Format::Protobuf => chunk.extend_from_slice(&proto::watch_frame(kind, object)),
            Format::Json | Format::Yaml => line(chunk, kind, object),
        }
    }

    /// A tree as it stands in an event: never indented, one event is one line.
    fn bytes(&self, value: &Value) -> Result<Bytes, Status> {
        match self.call.accept.format {
            Format::Protobuf => proto::encode(value).map(Bytes::from).map_err(Status::internal),
            Format::Json | Format::Yaml => {
                serde_json::to_vec(value).map(Bytes::from).map_err(Status::internal)
            }
        }
    }
}

/// A bookmark to a client that reads Tables: one row whose object carries the version.
fn bookmark_table(version: MetaVersion, object: &Value) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": object["metadata"],
        "columnDefinitions": null,
        "rows": [{"cells": [], "object": crate::render::partial(version, object)}],
    })
}

fn line(chunk: &mut BytesMut, kind: &str, object: &[u8]) {
    chunk.reserve(object.len() + 40);
    chunk.extend_from_slice(b"{\"type\":\"");
    chunk.extend_from_slice(kind.as_bytes());
    chunk.extend_from_slice(b"\",\"object\":");
    chunk.extend_from_slice(object);
    chunk.extend_from_slice(b"}\n");
}

fn timeout(call: &Call) -> Result<Duration, Status> {
    let seconds = call.query.number("timeoutSeconds")?.unwrap_or(0);
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Ok(TIMEOUT_MIN.mul_f64(1.0 + rand::rng().random::<f64>())),
    }
}

/// How a watch begins.
#[derive(Debug, Clone, Copy)]
struct Start {
    revision: Option<Revision>,
    /// The objects that are there come first, as ADDED.
    initial: bool,
    /// They end with an annotated bookmark.
    initial_end: bool,
}

impl Start {
    fn read(call: &Call) -> Result<Self, Status> {
        let revision = list::revision_parameter(call, |error| {
            Status::invalid_kind(&call.row.group, &call.row.resource, "", &[error])
        })?;
        let asked = call.query.opt_flag("sendInitialEvents");
        let errors = option_errors(
            asked,
            call.query.text("resourceVersionMatch"),
            !call.query.text("continue").is_empty(),
        );
        if !errors.is_empty() {
            return Err(Status::invalid_kind("meta.k8s.io", "ListOptions", "", &errors));
        }
        let unversioned = revision.is_none_or(|revision| revision == 0);
        let initial = asked.unwrap_or(unversioned);
        Ok(Self { revision, initial, initial_end: asked == Some(true) })
    }
}

/// What upstream refuses of the options of a watch, in its order.
fn option_errors(asked: Option<bool>, matching: &str, continued: bool) -> Vec<field::Error> {
    const NOT_OLDER: &str = "NotOlderThan";
    let at = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if asked.is_some() && matching != NOT_OLDER {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(at.forbidden(why));
    }
    if matching.is_empty() {
        return errors;
    }
    if asked.is_none() {
        errors.push(at.forbidden(
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ));
    }
    if matching != NOT_OLDER {
        errors.push(at.not_supported(matching, &[NOT_OLDER]));
    }
    if continued {
        errors.push(at.forbidden("resourceVersionMatch is forbidden when continue is provided"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_events_and_matching_need_each_other() {
        let texts = |asked, matching, continued| -> Vec<String> {
            let errors = option_errors(asked, matching, continued);
            errors.iter().map(ToString::to_string).collect()
        };
        assert!(texts(None, "", true).is_empty());
        assert!(texts(Some(true), "NotOlderThan", false).is_empty());
        assert!(texts(Some(false), "NotOlderThan", false).is_empty());
        assert_eq!(texts(Some(true), "Exact", false).len(), 2);
        assert_eq!(
            texts(Some(true), "", false),
            ["resourceVersionMatch: Forbidden: sendInitialEvents requires setting \
              resourceVersionMatch to NotOlderThan"]
        );
        assert_eq!(texts(None, "NotOlderThan", true).len(), 2);
    }
}
