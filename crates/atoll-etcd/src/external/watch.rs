//! One watch of an etcd, which goes on by itself over lost connections: without a gap, and
//! without showing anything twice.
//!
//! Each watch has a stream of its own, so that a slow one holds up no other and progress is its
//! own. A task receives, for what is left unread would end the whole connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use atoll_store::kv::{Error, Event, KeyRange, Result, Revision, WatchBatch, WatchRequest};
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::caller::Caller;
use super::convert;
use super::keyspace::ExternalKeyspace;
use super::outlet::{Outlet, outlet};
use super::prefix::Prefix;
use super::progress::{Progress, Wanted};
use super::verdict::{Subject, Verdict};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::mvccpb;

/// A stream that was opened says so within this time.
const OPEN_MAX: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A member that lags is asked again for its progress; etcd wants no more of it.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Requests on their way to etcd: the watch itself, and one for progress.
const REQUESTS_MAX: usize = 4;

pub(super) fn open(
    keyspace: &ExternalKeyspace,
    request: WatchRequest,
) -> BoxStream<'static, Result<WatchBatch>> {
    let (outlet, batches) = outlet(keyspace.watch_queue_bytes_max);
    let caller = keyspace.caller.clone();
    // As in etcd, zero and below mean the present.
    let start = request.start_revision.filter(|start| *start > 0);
    let next = start.unwrap_or(caller.seen() + 1);
    let (reached, wanted) = keyspace.progress.join(next - 1);
    let answered = wanted.borrow().number;
    let feed = Feed {
        range: if keyspace.progress.by_request() {
            narrow(&keyspace.prefix, &request.range, keyspace.progress.key())
        } else {
            // The key that is written for progress has to be among them.
            (keyspace.root.start().clone(), keyspace.root.end().clone())
        },
        prefix: keyspace.prefix.clone(),
        progress: keyspace.progress.clone(),
        caller,
        request,
        is_fresh: start.is_none(),
        next,
        catch_up_to: 0,
        held: Vec::new(),
        reached,
        wanted,
        answered,
        is_lost: false,
    };
    let stop = keyspace.caller.stop.clone();
    keyspace.caller.tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = feed.run(outlet) => {}
        }
    });
    batches
}

/// An end before the start is no error to us, but it is to etcd.
fn narrow(prefix: &Prefix, range: &KeyRange, progress: &Bytes) -> (Bytes, Bytes) {
    let (key, end) = prefix.range(range);
    if end.is_empty() || key < end { (key, end) } else { (progress.clone(), Bytes::new()) }
}

struct Feed {
    caller: Arc<Caller>,
    prefix: Prefix,
    progress: Arc<Progress>,
    request: WatchRequest,
    /// What etcd is asked to watch.
    range: (Bytes, Bytes),
    /// It was asked for what comes next, and nothing has come yet.
    is_fresh: bool,
    /// Everything before this revision was passed on.
    next: Revision,
    /// The present when the stream was opened; until then, being behind is what was asked for.
    catch_up_to: Revision,
    /// Events of a revision that etcd has sent a part of.
    held: Vec<Event>,
    /// `next - 1`, for others to see.
    reached: Arc<AtomicI64>,
    wanted: watch::Receiver<Wanted>,
    /// The last request for progress that was answered.
    answered: u64,
    is_lost: bool,
}

/// Why a stream is over.
enum End {
    Dropped,
    Failed(Error),
    /// It can be resumed, perhaps elsewhere.
    Lost(String),
    /// It goes on where it was when there is room again.
    Full,
}

impl Feed {
    async fn run(mut self, outlet: Outlet) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let before = self.next;
            match self.follow(&outlet).await {
                End::Dropped => return,
                End::Failed(error) => return outlet.end(error),
                End::Full => tokio::select! {
                    () = outlet.closed() => return,
                    () = outlet.half_taken() => {}
                },
                End::Lost(reason) => {
                    if !self.is_lost {
                        tracing::warn!(
                            reason,
                            next = self.next,
                            "a watch of the etcd was interrupted, resuming"
                        );
                        self.is_lost = true;
                    }
                    if self.next > before {
                        backoff = BACKOFF_MIN;
                    }
                    tokio::select! {
                        () = outlet.closed() => return,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn follow(&mut self, outlet: &Outlet) -> End {
        self.held.clear();
        let place = tokio::select! {
            () = outlet.closed() => return End::Dropped,
            place = self.caller.for_watch() => place,
        };
        let place = match place {
            Ok(place) => place,
            Err(failed) if failed.verdict == Verdict::Refused => {
                let error = failed.into_failure().into_error(&Subject::default(), None);
                return End::Failed(error);
            }
            Err(failed) => return End::Lost(failed.status.message().to_owned()),
        };
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        drop(requests.try_send(self.create()));
        let opened = self.caller.watch(&place, ReceiverStream::new(receiver));
        let opened = tokio::select! {
            () = outlet.closed() => return End::Dropped,
            opened = tokio::time::timeout(OPEN_MAX, opened) => opened,
        };
        let answers = match opened {
            Ok(Ok(answers)) => answers,
            Ok(Err(status)) => {
                self.caller.leave_watch(&place);
                return End::Lost(status.message().to_owned());
            }
            Err(_elapsed) => {
                self.caller.leave_watch(&place);
                return End::Lost("the etcd opens no watch".to_owned());
            }
        };
        let end = self.receive(outlet, &requests, answers).await;
        if matches!(end, End::Lost(_)) {
            self.caller.leave_watch(&place);
        }
        end
    }

    fn create(&self) -> pb::WatchRequest {
        let (key, range_end) = self.range.clone();
        let create = pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: self.next,
            // So that a quiet watch is not behind a compaction when it is resumed.
            progress_notify: true,
            prev_kv: self.request.prev_kv,
            fragment: true,
            ..pb::WatchCreateRequest::default()
        };
        pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
    }

    async fn receive(
        &mut self,
        outlet: &Outlet,
        requests: &mpsc::Sender<pb::WatchRequest>,
        mut answers: tonic::Streaming<pb::WatchResponse>,
    ) -> End {
        let mut ask_at: Option<Instant> = None;
        loop {
            if self.answer_wanted(outlet) {
                ask_at = None;
            } else if self.progress.by_request() && ask_at.is_none() {
                ask_at = Some(Instant::now());
            }
            let received = tokio::select! {
                () = outlet.closed() => return End::Dropped,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return End::Dropped;
                    }
                    continue;
                }
                () = tokio::time::sleep_until(ask_at.unwrap_or_else(Instant::now)),
                    if ask_at.is_some() =>
                {
                    let ask = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    // One that does not fit is asked again.
                    drop(requests.try_send(pb::WatchRequest { request_union: Some(ask) }));
                    ask_at = Some(Instant::now() + ASK_EVERY);
                    continue;
                }
                received = answers.message() => received,
            };
            let answer = match received {
                Ok(Some(answer)) => answer,
                Ok(None) => return End::Lost("the etcd ended the watch".to_owned()),
                Err(status) => return End::Lost(status.message().to_owned()),
            };
            if let Err(status) = self.caller.check(&answer) {
                return End::Failed(Error::Unavailable { detail: status.message().to_owned() });
            }
            if let Some(end) = self.on_answer(outlet, answer) {
                return end;
            }
        }
    }

    fn on_answer(&mut self, outlet: &Outlet, answer: pb::WatchResponse) -> Option<End> {
        let present = convert::revision(answer.header.as_ref());
        if answer.compact_revision != 0 {
            return Some(self.on_compacted(answer.compact_revision));
        }
        if answer.canceled {
            return Some(cancelled(&answer.cancel_reason));
        }
        if answer.created {
            self.catch_up_to = present;
            if std::mem::take(&mut self.is_lost) {
                tracing::info!(next = self.next, "a watch of the etcd was resumed");
            }
            return None;
        }
        if answer.events.is_empty() {
            return self.on_progress(outlet, present);
        }
        match self.on_events(outlet, answer) {
            Ok(true) => None,
            Ok(false) if self.next <= self.catch_up_to => Some(End::Full),
            Ok(false) => Some(End::Failed(Error::WatchTooSlow)),
            Err(error) => Some(End::Failed(error)),
        }
    }

    fn on_compacted(&mut self, compacted: Revision) -> End {
        if self.is_fresh && compacted > self.next {
            // Nothing was promised about what was before.
            self.advance(compacted);
            return End::Lost("it began before the newest compaction".to_owned());
        }
        End::Failed(Error::Compacted { requested: self.next, compacted })
    }

    /// A member that lags may tell of less than is known here.
    fn on_progress(&mut self, outlet: &Outlet, revision: Revision) -> Option<End> {
        if revision < self.next {
            return None;
        }
        self.advance(revision + 1);
        // The queue holds it, or is about to end for another reason.
        outlet.put(WatchBatch { revision, events: Vec::new() });
        None
    }

    /// Whether there is room for more.
    fn on_events(&mut self, outlet: &Outlet, answer: pb::WatchResponse) -> Result<bool> {
        let is_part = answer.fragment;
        let mut last = self.next - 1;
        for event in answer.events {
            let Some(at) = event.kv.as_ref().map(|kv| kv.mod_revision) else {
                return Err(convert::strange("an event without a key"));
            };
            // Sent twice, or from before the start.
            if at < self.next {
                continue;
            }
            last = last.max(at);
            if self.is_asked_for(&event) {
                self.held.push(convert::event(&self.prefix, event)?);
            }
        }
        let through = if is_part { last - 1 } else { last };
        if through < self.next {
            return Ok(true);
        }
        let whole = self.held.partition_point(|event| event.kv.mod_revision <= through);
        let rest = self.held.split_off(whole);
        let events = std::mem::replace(&mut self.held, rest);
        self.advance(through + 1);
        Ok(events.is_empty() || outlet.put(WatchBatch { revision: through, events }))
    }

    fn is_asked_for(&self, event: &mvccpb::Event) -> bool {
        let key = event.kv.as_ref().and_then(|kv| self.prefix.strip(&kv.key));
        key.is_some_and(|key| self.request.range.contains(&key))
    }

    fn advance(&mut self, next: Revision) {
        self.is_fresh = false;
        self.next = next;
        self.reached.store(next - 1, Ordering::Release);
    }

    /// Tells how far this watch is, if it was asked and is far enough; whether nothing is owed.
    fn answer_wanted(&mut self, outlet: &Outlet) -> bool {
        let wanted = *self.wanted.borrow_and_update();
        if wanted.number == self.answered {
            return true;
        }
        if self.next <= wanted.revision || !self.held.is_empty() {
            return false;
        }
        self.answered = wanted.number;
        // One that starts in the future has reached the present only.
        let revision = (self.next - 1).min(self.caller.seen().max(wanted.revision));
        outlet.put(WatchBatch { revision, events: Vec::new() });
        true
    }
}

fn cancelled(reason: &str) -> End {
    if reason.contains("permission denied") || reason.contains("user name is empty") {
        let detail = format!("the etcd refuses to watch: {reason}; give our user the whole prefix");
        return End::Failed(Error::Unavailable { detail });
    }
    End::Lost(format!("the etcd cancelled the watch: {reason}"))
}

/// The oldest revision that can be read, where something is known to have been compacted: an
/// etcd tells it to a watch that begins before.
pub(super) async fn compacted_revision(caller: &Caller, key: &Bytes) -> Option<Revision> {
    let place = caller.for_watch().await.ok()?;
    let (requests, receiver) = mpsc::channel(1);
    let create = pb::WatchCreateRequest {
        key: key.clone(),
        start_revision: 1,
        ..pb::WatchCreateRequest::default()
    };
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.try_send(create).ok()?;
    let answer = async {
        let mut answers = caller.watch(&place, ReceiverStream::new(receiver)).await.ok()?;
        while let Ok(Some(answer)) = answers.message().await {
            if answer.compact_revision != 0 {
                return Some(answer.compact_revision);
            }
        }
        None
    };
    tokio::time::timeout(OPEN_MAX, answer).await.ok().flatten()
}
