//! The calls of one connection run in the connection's own task.
//!
//! As tasks of their own, each answer would wake the connection and be written by itself, often
//! by another thread than the one that read the request. Together, what a wake brings is answered
//! by one write. A call must not block, which on a shared runtime none may anyway.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::task::{ArcWake, AtomicWaker, waker};
use hyper::rt::Executor;

/// A connection that always has more to do lets others go on after so many rounds.
const ROUNDS_MAX: usize = 4;

/// Where hyper puts the calls that a connection brings. Their number is bounded by the streams
/// that a client may have open.
#[derive(Clone, Default)]
pub(super) struct Calls {
    begun: Arc<Mutex<Vec<BoxFuture<'static, ()>>>>,
}

impl<F> Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(call));
    }
}

impl Calls {
    /// `connection` with its calls, until it has ended. Calls that still run then have nobody to
    /// answer.
    pub(super) async fn run<C: Future>(&self, connection: C) -> C::Output {
        let mut connection = std::pin::pin!(connection);
        let mut running = FuturesUnordered::new();
        let wakes = Arc::new(Wakes::default());
        let own = waker(wakes.clone());
        poll_fn(|context| {
            wakes.task.register(context.waker());
            for _ in 0..ROUNDS_MAX {
                wakes.state.store(POLLED, Ordering::SeqCst);
                let mut inner = Context::from_waker(&own);
                if let Poll::Ready(ended) = self.poll(connection.as_mut(), &mut running, &mut inner)
                {
                    return Poll::Ready(ended);
                }
                if wakes.rest() {
                    return Poll::Pending;
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    fn poll<C: Future>(
        &self,
        connection: Pin<&mut C>,
        running: &mut FuturesUnordered<BoxFuture<'static, ()>>,
        context: &mut Context<'_>,
    ) -> Poll<C::Output> {
        let ended = connection.poll(context);
        if ended.is_pending() {
            let begun = &mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            running.extend(begun.drain(..));
            while let Poll::Ready(Some(())) = running.poll_next_unpin(context) {}
        }
        ended
    }
}

/// Nobody has called since the task looked last.
const RESTS: u8 = 0;
/// The task looks now, and will look again if somebody calls.
const POLLED: u8 = 1;
/// Somebody has called.
const CALLED: u8 = 2;

/// The task's waker, spared when the task runs and looks again by itself: a call that is answered
/// wakes its connection.
#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wakes {
    /// Whether nobody has called meanwhile.
    fn rest(&self) -> bool {
        let state = &self.state;
        state.compare_exchange(POLLED, RESTS, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl ArcWake for Wakes {
    fn wake_by_ref(wakes: &Arc<Self>) {
        if wakes.state.swap(CALLED, Ordering::SeqCst) == RESTS {
            wakes.task.wake();
        }
    }
}
