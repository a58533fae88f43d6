//! Watchers that go on elsewhere again and again, from where they were.

use super::{convert, link::Link, record::Shared};
use atoll_etcd::proto::etcdserverpb::{self as pb, watch_request::RequestUnion};
use atoll_history::{Batch, Range, Watched};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Everything is well again when a piece ends, so that a watcher gets there soon.
const ARRIVE_MAX: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(30);
/// The watch itself, and questions how far it has come.
const ASKS_MAX: usize = 8;

/// Where a piece of the history ends, once that is known.
pub(super) type End = watch::Receiver<Option<i64>>;

pub(super) struct Watcher {
    pub(super) links: Vec<Link>,
    pub(super) shared: Arc<Shared>,
    pub(super) random: StdRng,
    pub(super) range: Range,
    pub(super) next: i64,
    pub(super) end: End,
    /// It wants to be told what stood there before.
    has_before: bool,
}

/// Why one stream ended.
enum Stop {
    Elsewhere,
    Compacted(i64),
}

impl Watcher {
    pub(super) fn new(number: u64, seed: u64, shared: Arc<Shared>, start: i64, end: End) -> Self {
        let ranges = ["", "key", "lease/"].map(|prefix| Range::Prefix(prefix.to_owned()));
        let one = Range::Key("key3".to_owned());
        let range = match number % 4 {
            3 => one,
            other => ranges[usize::try_from(other).unwrap()].clone(),
        };
        Self {
            links: shared.places.iter().map(|place| Link::new(place.clone())).collect(),
            shared,
            random: StdRng::seed_from_u64(seed ^ (number << 48)),
            range,
            next: start,
            end,
            has_before: number % 3 == 1,
        }
    }

    /// Of these servers' alone, if one is named.
    pub(super) async fn run(mut self, only: Option<usize>) -> Result<Vec<Watched>, String> {
        let (mut all, mut deadline) = (Vec::new(), None);
        while !self.has_arrived() {
            let due = *deadline.get_or_insert_with(|| Instant::now() + ARRIVE_MAX);
            if self.end.borrow().is_none() {
                deadline = None;
            } else if Instant::now() > due {
                let (range, end) = (&self.range, *self.end.borrow());
                return Err(format!("a watch of {range:?} stands before {} of {end:?}", self.next));
            }
            let server = only.unwrap_or_else(|| self.random.random_range(0..self.links.len()));
            let link = self.links[server].clone();
            let Some((asks, answers)) = self.open(&link).await else {
                sleep(AGAIN).await;
                continue;
            };
            let mut watched =
                Watched { range: self.range.clone(), start: self.next, batches: Vec::new() };
            let stop = self.follow(&asks, answers, &mut watched.batches).await;
            all.push(watched);
            if let Stop::Compacted(at) = stop {
                return Err(format!("a watch from {} was told of compaction at {at}", self.next));
            }
        }
        let end = self.end.borrow().unwrap_or(i64::MAX);
        all.iter_mut().for_each(|watched| trim(watched, end));
        Ok(all)
    }

    fn has_arrived(&self) -> bool {
        self.end.borrow().is_some_and(|end| self.next > end)
    }

    async fn open(
        &self,
        link: &Link,
    ) -> Option<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>)> {
        let (asks, requests) = mpsc::channel(ASKS_MAX);
        let (key, range_end) = convert::bounds(&self.range);
        let create = pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            start_revision: self.next,
            prev_kv: self.has_before,
            ..pb::WatchCreateRequest::default()
        };
        let create = RequestUnion::CreateRequest(create);
        asks.send(pb::WatchRequest { request_union: Some(create) }).await.ok()?;
        let answers = link.watch(ReceiverStream::new(requests)).await.ok()?;
        Some((asks, answers))
    }

    async fn follow(
        &mut self,
        asks: &mpsc::Sender<pb::WatchRequest>,
        mut answers: Streaming<pb::WatchResponse>,
        batches: &mut Vec<Batch>,
    ) -> Stop {
        let until = Instant::now() + Duration::from_millis(self.random.random_range(200..6000));
        let mut ask_again = interval(Duration::from_millis(self.random.random_range(80..400)));
        ask_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.has_arrived() {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(answer)) if answer.compact_revision > 0 => {
                        return Stop::Compacted(answer.compact_revision);
                    }
                    Ok(Some(answer)) if !answer.canceled => self.hear(&answer, batches),
                    _ => return Stop::Elsewhere,
                },
                _ = ask_again.tick() => {
                    let progress = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
                    // One that has not been read yet will do.
                    asks.try_send(pb::WatchRequest { request_union: Some(progress) }).ok();
                }
                () = sleep_until(until) => return Stop::Elsewhere,
            }
        }
        Stop::Elsewhere
    }

    fn hear(&mut self, answer: &pb::WatchResponse, batches: &mut Vec<Batch>) {
        let Some(batch) = convert::batch(answer, self.has_before) else { return };
        // A server that is behind the start of a watch says so.
        if batches.is_empty() && batch.changes.is_empty() && batch.revision < self.next {
            return;
        }
        self.shared.saw(&batch);
        self.next = self.next.max(batch.revision + 1);
        batches.push(batch);
    }
}

/// What came after the end belongs to the next piece.
fn trim(watched: &mut Watched, end: i64) {
    for batch in &mut watched.batches {
        batch.revision = batch.revision.min(end);
        batch.changes.retain(|change| change.revision <= end);
        // In their order, so that those that stay are the first.
        if let Some(before) = &mut batch.before {
            before.truncate(batch.changes.len());
        }
    }
}
