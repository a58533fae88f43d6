//! The Watch service: one stream carries many watches.
//!
//! Nothing is queued for a watch: the stream asks its watches for more when its client has
//! taken what it was sent, and a watch that is behind reads from the store again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atoll_store::kv::{Error, EventKind, Result as StoreResult, WatchBatch};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{AbortHandle, Abortable, BoxStream, SelectAll};
use futures::{Stream, StreamExt};
use prost::Message as _;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::{Request, Response, Status, Streaming};

use super::{Core, MESSAGE_OVERHEAD_BYTES, Shared, convert, error};
use crate::proto::etcdserverpb::watch_create_request::FilterType;
use crate::proto::etcdserverpb::watch_request::RequestUnion;
use crate::proto::etcdserverpb::watch_server::Watch;
use crate::proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::proto::mvccpb;

mod fragment;

/// The id of answers that are about no watch, or about all of them.
const NO_WATCH: i64 = -1;
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
/// Watches of one stream; more are refused.
const WATCHES_MAX: usize = 100_000;
/// Progress requests waiting for a stream's watches; more are one with the last.
const PROGRESS_MAX: usize = 64;

/// Revisions that a watch which catches up is told of in one answer, as by an etcd.
const JOINED_REVISIONS_MAX: usize = 1000;
/// What waits on one stream to be told with what follows; then it is told as it is.
const JOINED_BYTES_MAX: usize = 16 << 20;

/// The group of the next stream's watches.
static GROUPS: AtomicU64 = AtomicU64::new(1);

type Answers = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;
/// What a watch has brought, with the watch's serial number; `None` is its end.
type Brought = (u64, Option<StoreResult<WatchBatch>>);

#[tonic::async_trait]
impl Watch for Shared {
    type WatchStream = Answers;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let ends = self.stream_ends(request.metadata());
        let session = Session::new(self.0.clone(), request.into_inner(), ends);
        let answers = futures::stream::unfold(Some(session), |session| async move {
            let mut session = session?;
            let answer = session.next().await;
            let goes_on = answer.is_ok();
            Some((answer, goes_on.then_some(session)))
        });
        Ok(Response::new(answers.boxed()))
    }
}

struct Session {
    core: Arc<Core>,
    /// Told apart from all other streams: the store wakes only this one's watches for it.
    group: u64,
    requests: Streaming<WatchRequest>,
    /// The client asks no more; it still wants what it has asked for.
    requests_ended: bool,
    ends: BoxFuture<'static, Status>,
    watches: HashMap<i64, Watched>,
    /// A watch's id may be used again, its serial number is not.
    serials: HashMap<u64, i64>,
    batches: SelectAll<BoxStream<'static, Brought>>,
    next_serial: u64,
    next_id: i64,
    progress_timer: Interval,
    /// Revisions that all watches have to reach before a request for progress is answered.
    progress: VecDeque<i64>,
    /// The highest revision that any watch has brought.
    brought: i64,
    /// Watches that catch up, whose events wait for what can be read at once.
    joining: BTreeSet<i64>,
    joined_bytes: usize,
    /// Made and not yet taken; a step adds a few.
    ready: VecDeque<WatchResponse>,
}

struct Watched {
    serial: u64,
    request: WatchCreateRequest,
    abort: AbortHandle,
    /// Everything up to this revision has been sent.
    reached: i64,
    /// The revision when it began: what is up to there was history.
    present: i64,
    joined: Joined,
    /// Nothing was sent since the timer last looked.
    is_quiet: bool,
    /// The timer wants to tell how far it is.
    tells_progress: bool,
}

/// History of one watch that has been read and not been told.
#[derive(Default)]
struct Joined {
    events: Vec<mvccpb::Event>,
    bytes: usize,
    revisions: usize,
    /// The end of what was read.
    through: i64,
}

impl Joined {
    fn add(&mut self, through: i64, events: Vec<mvccpb::Event>) -> usize {
        let at = |event: &mvccpb::Event| event.kv.as_ref().map(|kv| kv.mod_revision);
        let mut last = self.events.last().and_then(at);
        let mut bytes = 0;
        for event in &events {
            bytes += event.encoded_len();
            self.revisions += usize::from(at(event) != last);
            last = at(event);
        }
        self.through = through;
        self.bytes += bytes;
        self.events.extend(events);
        bytes
    }
}

impl Session {
    fn new(
        core: Arc<Core>,
        requests: Streaming<WatchRequest>,
        ends: BoxFuture<'static, Status>,
    ) -> Self {
        let every = core.config.progress_every;
        let mut progress_timer = tokio::time::interval_at(Instant::now() + every, every);
        progress_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        core.counters.watch_streams.add(1);
        Self {
            core,
            group: GROUPS.fetch_add(1, Ordering::Relaxed),
            requests,
            requests_ended: false,
            ends,
            watches: HashMap::new(),
            serials: HashMap::new(),
            batches: SelectAll::new(),
            next_serial: 0,
            next_id: 0,
            progress_timer,
            progress: VecDeque::new(),
            brought: 0,
            joining: BTreeSet::new(),
            joined_bytes: 0,
            ready: VecDeque::new(),
        }
    }

    /// The next answer; an error is the last. A client that wants no more resets the stream.
    async fn next(&mut self) -> Result<WatchResponse, Status> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Ok(answer);
            }
            if !self.joining.is_empty() {
                match self.batches.next().now_or_never().flatten() {
                    Some((serial, brought)) => self.on_batch(serial, brought)?,
                    None => self.tell_joined(),
                }
                continue;
            }
            let stepped = tokio::select! {
                request = self.requests.message(), if !self.requests_ended => match request {
                    Ok(Some(request)) => self.on_request(request).await,
                    Ok(None) => {
                        self.requests_ended = true;
                        Ok(())
                    }
                    Err(status) => Err(status),
                },
                Some((serial, brought)) = self.batches.next() => self.on_batch(serial, brought),
                _ = self.progress_timer.tick() => self.on_timer().await,
                () = self.core.stop.cancelled() => Err(error::STOPPED.into()),
                status = &mut self.ends => Err(status),
            };
            stepped?;
        }
    }

    async fn on_request(&mut self, request: WatchRequest) -> Result<(), Status> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => self.create(create).await,
            Some(RequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => self.ask_progress().await,
            // A kind that is not known yet; etcd passes over it too.
            None => Ok(()),
        }
    }

    async fn create(&mut self, create: WatchCreateRequest) -> Result<(), Status> {
        let revision = self.core.revision().await?;
        let create = normalised(create);
        let refusal = if create.start_revision < 0 {
            Some(error::COMPACTED.status().message().to_owned())
        } else if is_empty_range(&create) {
            Some(EMPTY_RANGE.to_owned())
        } else if create.watch_id != 0 && self.watches.contains_key(&create.watch_id) {
            Some(DUPLICATE_ID.to_owned())
        } else if self.watches.len() >= WATCHES_MAX {
            Some(format!("etcdserver: this stream has {WATCHES_MAX} watches; open another"))
        } else {
            None
        };
        let mut created = WatchResponse {
            header: self.core.header(revision),
            watch_id: NO_WATCH,
            created: true,
            ..WatchResponse::default()
        };
        if let Some(reason) = refusal {
            created.canceled = true;
            created.cancel_reason = reason;
            self.ready.push_back(created);
            return Ok(());
        }
        created.watch_id = if create.watch_id == 0 { self.free_id() } else { create.watch_id };
        let id = created.watch_id;
        self.ready.push_back(created);
        // Whoever names no start sees all that follows the revision it was told.
        let start = if create.start_revision > 0 { create.start_revision } else { revision + 1 };
        self.open(id, create, start, revision);
        Ok(())
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn open(&mut self, id: i64, request: WatchCreateRequest, start: i64, present: i64) {
        let serial = self.next_serial;
        self.next_serial += 1;
        let wanted = atoll_store::kv::WatchRequest {
            range: convert::key_range(&request.key, &request.range_end),
            start_revision: Some(start),
            prev_kv: request.prev_kv,
        };
        let watch = self.core.store.watch_of(wanted, self.group);
        let brought = watch.map(move |batch| (serial, Some(batch)));
        let end = futures::stream::once(std::future::ready((serial, None)));
        let (abort, registration) = AbortHandle::new_pair();
        self.batches.push(Abortable::new(brought.chain(end), registration).boxed());
        let watched = Watched {
            serial,
            request,
            abort,
            reached: start - 1,
            present,
            joined: Joined::default(),
            is_quiet: true,
            tells_progress: false,
        };
        self.core.counters.watchers.add(1);
        self.watches.insert(id, watched);
        self.serials.insert(serial, id);
    }

    /// The watch is over for the store; what it had brought is not sent any more.
    fn close(&mut self, id: i64) -> Option<Watched> {
        let watched = self.watches.remove(&id)?;
        watched.abort.abort();
        self.joining.remove(&id);
        self.joined_bytes -= watched.joined.bytes;
        self.core.counters.watchers.sub(1);
        self.serials.remove(&watched.serial);
        Some(watched)
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Status> {
        if self.close(id).is_none() {
            return Ok(());
        }
        let revision = self.core.revision().await?;
        self.ready.push_back(WatchResponse {
            header: self.core.header(revision),
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        });
        self.answer_progress();
        Ok(())
    }

    fn on_batch(
        &mut self,
        serial: u64,
        brought: Option<StoreResult<WatchBatch>>,
    ) -> Result<(), Status> {
        // It was cancelled meanwhile.
        let Some(id) = self.serials.get(&serial).copied() else { return Ok(()) };
        match brought {
            Some(Ok(batch)) => self.send(id, batch),
            Some(Err(Error::Compacted { compacted, .. })) => {
                if self.joining.contains(&id) {
                    self.tell_joined_of(id);
                }
                self.close(id);
                self.ready.push_back(WatchResponse {
                    header: self.core.header(0),
                    watch_id: id,
                    canceled: true,
                    compact_revision: compacted,
                    ..WatchResponse::default()
                });
                self.answer_progress();
            }
            // The store remembers no more for those who are slow; it still has it on disk.
            Some(Err(Error::WatchTooSlow)) => {
                if let Some(watched) = self.close(id) {
                    self.open(id, watched.request, watched.reached + 1, watched.present);
                }
            }
            Some(Err(error)) => return Err(error::status(&error)),
            None => return Err(error::STOPPED.into()),
        }
        Ok(())
    }

    fn send(&mut self, id: i64, batch: WatchBatch) {
        let Some(watched) = self.watches.get_mut(&id) else { return };
        let filters = &watched.request.filters;
        let wanted = |kind| {
            let filter = match kind {
                EventKind::Put => FilterType::Noput,
                EventKind::Delete => FilterType::Nodelete,
            };
            !filters.contains(&i32::from(filter))
        };
        let is_progress = batch.events.is_empty();
        let events: Vec<_> = batch
            .events
            .into_iter()
            .filter(|event| wanted(event.kind))
            .map(|event| mvccpb::Event {
                r#type: match event.kind {
                    EventKind::Put => mvccpb::event::EventType::Put.into(),
                    EventKind::Delete => mvccpb::event::EventType::Delete.into(),
                },
                kv: Some(convert::key_value(event.kv)),
                prev_kv: event.prev_kv.map(convert::key_value),
            })
            .collect();
        if batch.revision < watched.present || self.joining.contains(&id) {
            self.join(id, batch.revision, events);
        } else {
            self.tell(id, batch.revision, events, is_progress);
        }
    }

    /// Keeps what a watch that catches up has read, to be told with what follows.
    fn join(&mut self, id: i64, through: i64, events: Vec<mvccpb::Event>) {
        let Some(watched) = self.watches.get_mut(&id) else { return };
        self.joining.insert(id);
        self.joined_bytes += watched.joined.add(through, events);
        let is_present = through >= watched.present;
        let is_full = watched.joined.revisions >= JOINED_REVISIONS_MAX;
        if is_present || is_full || self.joined_bytes >= JOINED_BYTES_MAX {
            self.tell_joined_of(id);
        }
    }

    /// Nothing more can be read at once: the rest of their history does not concern these watches.
    fn tell_joined(&mut self) {
        while let Some(id) = self.joining.first().copied() {
            self.tell_joined_of(id);
        }
    }

    fn tell_joined_of(&mut self, id: i64) {
        self.joining.remove(&id);
        let Some(watched) = self.watches.get_mut(&id) else { return };
        let Joined { events, bytes, through, .. } = std::mem::take(&mut watched.joined);
        self.joined_bytes -= bytes;
        self.tell(id, through, events, false);
    }

    fn tell(&mut self, id: i64, revision: i64, events: Vec<mvccpb::Event>, is_progress: bool) {
        let Some(watched) = self.watches.get_mut(&id) else { return };
        // A watch that begins later has nothing to tell yet (etcd #20221).
        let has_begun = revision >= watched.reached;
        watched.reached = watched.reached.max(revision);
        self.brought = self.brought.max(revision);
        let told = is_progress && has_begun && std::mem::take(&mut watched.tells_progress);
        if told || !events.is_empty() {
            watched.is_quiet &= told;
            let answer = WatchResponse {
                header: self.core.header(revision),
                watch_id: id,
                events,
                ..WatchResponse::default()
            };
            if watched.request.fragment {
                let bytes_max = self.core.config.request_bytes_max + MESSAGE_OVERHEAD_BYTES;
                fragment::split(answer, bytes_max, &mut self.ready);
            } else {
                self.ready.push_back(answer);
            }
        }
        self.answer_progress();
    }

    /// Answered once every watch of the stream has sent all up to the present. A watch that
    /// starts in the future has not, and then there is no answer, as in etcd.
    async fn ask_progress(&mut self) -> Result<(), Status> {
        let asked = self.core.store.request_progress_of(self.group).await;
        let revision = asked.map_err(|error| error::status(&error))?;
        if self.watches.values().any(|watched| watched.reached > revision) {
            return Ok(());
        }
        if self.progress.len() >= PROGRESS_MAX {
            self.progress.pop_back();
        }
        self.progress.push_back(revision);
        self.answer_progress();
        Ok(())
    }

    fn answer_progress(&mut self) {
        while let Some(revision) = self.progress.front().copied() {
            let reached = self.watches.values().map(|watched| watched.reached).min();
            let reached = reached.unwrap_or(revision);
            if reached < revision {
                return;
            }
            self.progress.pop_front();
            // Events that came since it was asked may have been sent: it never goes back behind
            // them. A watch that begins later has not brought what lies before its start.
            let revision = revision.max(reached.min(self.brought));
            self.ready.push_back(WatchResponse {
                header: self.core.header(revision),
                watch_id: NO_WATCH,
                ..WatchResponse::default()
            });
        }
    }

    /// Watches that asked for it and had nothing to tell for a while tell how far they are.
    async fn on_timer(&mut self) -> Result<(), Status> {
        let mut wanted = false;
        for watched in self.watches.values_mut() {
            let asks = watched.request.progress_notify && watched.is_quiet;
            watched.tells_progress |= asks;
            watched.is_quiet = true;
            wanted |= asks;
        }
        if wanted {
            let asked = self.core.store.request_progress_of(self.group).await;
            asked.map_err(|error| error::status(&error))?;
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let counters = &self.core.counters;
        counters.watch_streams.sub(1);
        counters.watchers.sub(self.watches.len() as u64);
    }
}

/// As etcd reads it: no key is the first one.
fn normalised(mut create: WatchCreateRequest) -> WatchCreateRequest {
    if create.key.is_empty() {
        create.key = bytes::Bytes::from_static(b"\0");
    }
    create
}

fn is_empty_range(create: &WatchCreateRequest) -> bool {
    let end = create.range_end.as_ref();
    !end.is_empty() && end != b"\0" && create.key.as_ref() >= end
}
