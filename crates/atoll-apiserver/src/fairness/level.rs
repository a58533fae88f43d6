//! One priority level: its queues, and the requests that wait in them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queues::{Arrival, Queues, Started};

/// A priority level. It outlives changes of its configuration.
#[derive(Debug)]
pub(super) struct Level {
    pub(super) name: String,
    uid: ArcSwap<HeaderValue>,
    began: Instant,
    state: Mutex<State>,
    pub(super) rejected: AtomicU64,
    pub(super) dispatched: AtomicU64,
}

#[derive(Debug)]
struct State {
    exempt: bool,
    queues: Queues,
    waiting: HashMap<u64, oneshot::Sender<usize>>,
    /// Those that were called and do not know it yet, and their queues.
    given: HashMap<u64, usize>,
    next_id: u64,
    /// The most seats that were taken and waited for since it was last looked at.
    peak: u32,
}

/// Seats that are taken; dropped, they are free.
#[derive(Debug)]
pub(crate) struct Ticket {
    level: Arc<Level>,
    /// `None` where nothing is counted.
    queue: Option<usize>,
    seats: u32,
    since: Instant,
}

/// What a level is to be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shape {
    pub(super) exempt: bool,
    pub(super) queues: usize,
    pub(super) hand: usize,
    pub(super) length_max: usize,
}

impl Level {
    pub(super) fn new(name: &str) -> Arc<Self> {
        let state = State {
            exempt: false,
            queues: Queues::new(),
            waiting: HashMap::new(),
            given: HashMap::new(),
            next_id: 0,
            peak: 0,
        };
        Arc::new(Self {
            name: name.to_owned(),
            uid: ArcSwap::from_pointee(HeaderValue::from_static("")),
            began: Instant::now(),
            state: Mutex::new(state),
            rejected: AtomicU64::new(0),
            dispatched: AtomicU64::new(0),
        })
    }

    pub(super) fn configure(&self, uid: HeaderValue, shape: Shape) {
        self.uid.store(Arc::new(uid));
        let mut state = self.state();
        state.exempt = shape.exempt;
        state.queues.reshape(shape.queues, shape.hand, shape.length_max);
    }

    pub(super) fn uid(&self) -> HeaderValue {
        self.uid.load().as_ref().clone()
    }

    /// Seats for one request; `None` when it is sent away.
    pub(super) async fn admit(
        level: &Arc<Self>,
        flow: u64,
        seats: u32,
        wait_max: Duration,
    ) -> Option<Ticket> {
        let (seats, entry) = level.arrive(flow, seats);
        let (id, begun) = match entry {
            Entry::Run(queue) => return Some(level.ticket(queue, seats)),
            Entry::Reject => {
                level.rejected.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            Entry::Wait(id, begun) => (id, begun),
        };
        let mut guard = Leaving { level, id, seats, waits: true };
        match tokio::time::timeout(wait_max, begun).await {
            Ok(Ok(queue)) => {
                guard.waits = false;
                level.state().given.remove(&id);
                Some(level.ticket(Some(queue), seats))
            }
            _ => {
                level.rejected.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// No request takes more seats than there are.
    fn arrive(&self, flow: u64, seats: u32) -> (u32, Entry) {
        let now = self.now();
        let mut state = self.state();
        if state.exempt {
            return (seats, Entry::Run(None));
        }
        let seats = seats.min(state.queues.limit());
        let id = state.next_id;
        state.next_id += 1;
        let arrival = state.queues.arrive(now, flow, id, seats);
        let (taken, waiting) = state.queues.demand();
        state.peak = state.peak.max(taken + waiting);
        let entry = match arrival {
            Arrival::Run(queue) => Entry::Run(Some(queue)),
            Arrival::Reject => Entry::Reject,
            Arrival::Wait => {
                let (begin, begun) = oneshot::channel();
                state.waiting.insert(id, begin);
                Entry::Wait(id, begun)
            }
        };
        (seats, entry)
    }

    fn ticket(self: &Arc<Self>, queue: Option<usize>, seats: u32) -> Ticket {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        Ticket { level: self.clone(), queue, seats, since: Instant::now() }
    }

    fn finish(&self, queue: usize, seats: u32, took: Duration) {
        let now = self.now();
        let mut state = self.state();
        let started = state.queues.finish(now, queue, seats, took.as_secs_f64());
        state.wake(started);
    }

    /// Seats that this level may take from now on.
    pub(super) fn set_limit(&self, limit: u32) {
        let mut state = self.state();
        if state.queues.limit() == limit {
            return;
        }
        state.queues.set_limit(limit);
        let started = state.queues.dispatch();
        state.wake(started);
    }

    /// The most that was wanted since the last call.
    pub(super) fn take_peak(&self) -> u32 {
        let mut state = self.state();
        let (taken, waiting) = state.queues.demand();
        std::mem::replace(&mut state.peak, taken + waiting)
    }

    /// Limit, seats taken, requests waiting.
    pub(super) fn numbers(&self) -> (u32, u32, usize) {
        let state = self.state();
        (state.queues.limit(), state.queues.demand().0, state.queues.waiting())
    }

    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Entry {
    Run(Option<usize>),
    Wait(u64, oneshot::Receiver<usize>),
    Reject,
}

impl State {
    fn wake(&mut self, started: Vec<Started>) {
        for one in started {
            self.given.insert(one.id, one.queue);
            if let Some(begin) = self.waiting.remove(&one.id)
                && begin.send(one.queue).is_err()
            {
                // It has just gone away; its guard gives the seats back.
                tracing::trace!("a request left as it was to begin");
            }
        }
    }
}

/// Takes a request that waits out of its queue when its client goes away.
struct Leaving<'a> {
    level: &'a Arc<Level>,
    id: u64,
    seats: u32,
    waits: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if !self.waits {
            return;
        }
        let mut state = self.level.state();
        state.waiting.remove(&self.id);
        if state.queues.leave(self.id) {
            return;
        }
        // It was just called: the seats that it was given go to the next.
        if let Some(queue) = state.given.remove(&self.id) {
            let now = self.level.now();
            let started = state.queues.finish(now, queue, self.seats, 0.0);
            state.wake(started);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(queue) = self.queue {
            self.level.finish(queue, self.seats, self.since.elapsed());
        }
    }
}
