//! Names of objects to look at: each at most once at a time, failures later and later.
//!
//! An item added while it is being worked on is worked on once more afterwards, never
//! by two workers at once (client-go's work queue has the same rule).

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The first retry of a failed item waits this long; each further one twice as long.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
/// No retry waits longer, so that a mended cause is noticed within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a worker says of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Look again after this time, whatever happens until then.
    After(Duration),
    /// Look again with backoff.
    Retry,
}

struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be put there when its worker is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    later: BTreeMap<(Instant, u64), T>,
    due_at: HashMap<T, (Instant, u64)>,
    failures: HashMap<T, u32>,
    sequence: u64,
}

/// A queue of distinct items. It holds at most one entry an item, so its size is bounded
/// by the number of objects in the cluster.
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

impl<T: Clone + Eq + Hash + Send + 'static> WorkQueue<T> {
    pub fn new() -> Arc<Self> {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            later: BTreeMap::new(),
            due_at: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        };
        Arc::new(Self { state: Mutex::new(state), wake: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, item: T) {
        if self.lock().add(item) {
            self.wake.notify_one();
        }
    }

    /// Adds `item` after `delay`, or when it is due already, whichever comes first.
    pub fn add_after(&self, item: T, delay: Duration) {
        self.lock().add_at(item, Instant::now() + delay);
        self.wake.notify_one();
    }

    async fn next(&self) -> T {
        loop {
            let (item, next_due) = {
                let mut state = self.lock();
                state.promote(Instant::now());
                (state.take(), state.later.first_key_value().map(|((at, _), _)| *at))
            };
            if let Some(item) = item {
                return item;
            }
            match next_due {
                None => self.wake.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    fn done(&self, item: &T, outcome: Outcome) {
        let mut state = self.lock();
        state.finish(item, outcome);
        let more = !state.ready.is_empty() || !state.later.is_empty();
        drop(state);
        if more {
            self.wake.notify_one();
        }
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Whether a worker should be woken.
    fn add(&mut self, item: T) -> bool {
        if !self.dirty.insert(item.clone()) || self.working.contains(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    fn add_at(&mut self, item: T, at: Instant) {
        if let Some(due) = self.due_at.get(&item).copied() {
            if due.0 <= at {
                return;
            }
            self.later.remove(&due);
        }
        self.sequence += 1;
        self.due_at.insert(item.clone(), (at, self.sequence));
        self.later.insert((at, self.sequence), item);
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let item = entry.remove();
            self.due_at.remove(&item);
            self.add(item);
        }
    }

    fn take(&mut self) -> Option<T> {
        let item = self.ready.pop_front()?;
        self.dirty.remove(&item);
        self.working.insert(item.clone());
        Some(item)
    }

    fn finish(&mut self, item: &T, outcome: Outcome) {
        self.working.remove(item);
        match outcome {
            Outcome::Done => {
                self.failures.remove(item);
            }
            Outcome::After(delay) => {
                self.failures.remove(item);
                self.add_at(item.clone(), Instant::now() + delay);
            }
            Outcome::Retry => {
                let failures = self.failures.entry(item.clone()).or_insert(0);
                let delay = backoff(*failures);
                *failures += 1;
                self.add_at(item.clone(), Instant::now() + delay);
            }
        }
        if self.dirty.contains(item) {
            self.ready.push_back(item.clone());
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let factor = 2u32.checked_pow(failures).unwrap_or(u32::MAX);
    BACKOFF_FIRST.saturating_mul(factor).min(BACKOFF_MAX)
}

/// Starts `count` workers on `tasks` that call `work` for each item until `stop`.
pub fn run_workers<T, F, W>(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    queue: &Arc<WorkQueue<T>>,
    count: usize,
    work: W,
) where
    T: Clone + Eq + Hash + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
    W: Fn(T) -> F + Clone + Send + Sync + 'static,
{
    for _ in 0..count {
        let (queue, stop, work) = (queue.clone(), stop.clone(), work.clone());
        tasks.spawn(async move {
            loop {
                let item = tokio::select! {
                    () = stop.cancelled() => return,
                    item = queue.next() => item,
                };
                // Another worker may take what else is ready while this one is busy.
                queue.wake.notify_one();
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    outcome = work(item.clone()) => outcome,
                };
                queue.done(&item, outcome);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_added_twice_is_handed_out_once() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a", Outcome::Done);
        queue.add("b");
        assert_eq!(queue.next().await, "b");
    }

    #[tokio::test(start_paused = true)]
    async fn an_item_added_while_worked_on_comes_again_afterwards() {
        let queue = WorkQueue::new();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(queue.lock().ready.is_empty(), "two workers would have it at once");
        queue.done(&"a", Outcome::Done);
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_each_time_and_are_forgotten_on_success() {
        let queue = WorkQueue::new();
        queue.add("a");
        let mut waits = Vec::new();
        for _ in 0..4 {
            let item = queue.next().await;
            let failed_at = Instant::now();
            queue.done(&item, Outcome::Retry);
            let item = queue.next().await;
            waits.push(failed_at.elapsed().as_millis());
            queue.done(&item, Outcome::Retry);
        }
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        assert_eq!(backoff(40), BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earlier_of_two_delays_wins() {
        let queue = WorkQueue::new();
        let started = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(1));
        assert_eq!(queue.next().await, "a");
        assert_eq!(started.elapsed().as_secs(), 1);
        assert!(queue.lock().later.is_empty());
    }
}
