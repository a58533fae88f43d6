//! One peer as this server sends to it: dialled, and dialled again when the connection ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng as _;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::PeerStatus;
use super::dial::{self, DialError};
use super::greeting::Purpose;
use super::queue::SendQueue;
use super::session::Session;
use super::stream::{self, Ended};
use crate::cluster::Refusal;
use crate::sync::lock;

/// Between two attempts: first and longest wait.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection that ended sooner counts as a failed attempt.
const CONNECTION_LIFE_MIN: Duration = Duration::from_secs(1);
/// The store hears of dropped messages at most so often.
const REPORT_EVERY: Duration = Duration::from_millis(50);
/// Between two warnings about failed attempts whose words differ.
const WARN_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) address: watch::Sender<String>,
    pub(super) queue: SendQueue,
    /// Ends the wait between two attempts.
    pub(super) retry: Notify,
    pub(super) stop: CancellationToken,
    pub(super) sent_bytes: AtomicU64,
    pub(super) sent_messages: AtomicU64,
    pub(super) is_sending_snapshot: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connected_since: Option<Instant>,
    round_trip: Option<Duration>,
    last_problem: Option<String>,
    last_refusal: Option<Refusal>,
    /// The last warning about failed attempts.
    said: Option<(Instant, String)>,
}

impl State {
    /// The same thing is said once; other words for it, as with a time in them, now and then.
    fn is_news(&self, problem: &str, now: Instant) -> bool {
        self.said
            .as_ref()
            .is_none_or(|(at, said)| said != problem && now.duration_since(*at) >= WARN_EVERY)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Ended(#[from] Ended),
}

impl Peer {
    pub(super) fn new(id: u64, address: &str, queue_bytes_max: usize) -> Self {
        Self {
            id,
            address: watch::Sender::new(address.to_owned()),
            queue: SendQueue::new(queue_bytes_max),
            retry: Notify::new(),
            stop: CancellationToken::new(),
            sent_bytes: AtomicU64::new(0),
            sent_messages: AtomicU64::new(0),
            is_sending_snapshot: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    pub(super) fn set_address(&self, address: &str) {
        self.address.send_if_modified(|old| {
            let differs = old != address;
            if differs {
                address.clone_into(old);
            }
            differs
        });
    }

    pub(super) fn answered(&self, round_trip: Duration) {
        lock(&self.state).round_trip = Some(round_trip);
    }

    /// The peer said why it does not talk to this server.
    pub(super) fn refused(&self, refusal: &Refusal) {
        lock(&self.state).last_refusal = Some(refusal.clone());
    }

    pub(super) fn status(&self) -> PeerStatus {
        let state = lock(&self.state);
        PeerStatus {
            id: self.id,
            address: self.address.borrow().clone(),
            connected_since: state.connected_since,
            receiving_since: None,
            round_trip: state.round_trip,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            sent_messages: self.sent_messages.load(Ordering::Relaxed),
            received_bytes: 0,
            received_messages: 0,
            waiting_bytes: self.queue.waiting_bytes(),
            dropped_messages: self.queue.dropped_count(),
            refused_messages: 0,
            is_sending_snapshot: self.is_sending_snapshot.load(Ordering::Relaxed),
            last_problem: state.last_problem.clone(),
            last_refusal: state.last_refusal.clone(),
        }
    }

    fn connected(&self) {
        self.queue.connected();
        let mut state = lock(&self.state);
        state.connected_since = Some(Instant::now());
        state.round_trip = None;
        state.last_problem = None;
        state.last_refusal = None;
        state.said = None;
    }

    /// Whether there was a connection.
    fn disconnected(&self) -> bool {
        let was_connected = lock(&self.state).connected_since.take().is_some();
        if was_connected {
            self.queue.disconnected();
        }
        was_connected
    }

    fn failed(&self, problem: String, was_connected: bool) {
        let (peer, address) = (format!("{:x}", self.id), self.address.borrow().clone());
        let mut state = lock(&self.state);
        if was_connected {
            tracing::warn!(peer, address, problem, "lost a peer");
        } else if state.is_news(&problem, Instant::now()) {
            tracing::warn!(peer, address, problem, "no way to a peer");
            state.said = Some((Instant::now(), problem.clone()));
        } else {
            tracing::debug!(peer, address, problem, "no way to a peer");
        }
        state.last_problem = Some(problem);
    }
}

/// Until it is no peer any more, or all ends.
pub(super) async fn run(session: Arc<Session>, peer: Arc<Peer>) {
    tokio::select! {
        () = session.stop.cancelled() => {}
        () = peer.stop.cancelled() => {}
        () = keep_connected(&session, &peer) => {}
        () = report_drops(&session, &peer) => {}
    }
    peer.disconnected();
}

async fn report_drops(session: &Session, peer: &Peer) {
    loop {
        peer.queue.dropped.notified().await;
        session.inbox.unreachable(peer.id);
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

async fn keep_connected(session: &Session, peer: &Peer) {
    let mut address = peer.address.subscribe();
    let mut wait = BACKOFF_MIN;
    loop {
        address.mark_unchanged();
        let started = Instant::now();
        let problem = tokio::select! {
            problem = connect_and_send(session, peer) => Some(problem),
            _ = address.changed() => None,
        };
        let was_connected = peer.disconnected();
        if was_connected {
            session.inbox.unreachable(peer.id);
        }
        let Some(problem) = problem else {
            wait = BACKOFF_MIN;
            continue;
        };
        if let Some(refusal) = problem.refusal() {
            peer.refused(refusal);
            session.inbox.refused_by(peer.id, refusal);
        }
        if problem.is_refused_connection() && !session.is_called_by(peer.id) {
            session.inbox.gone(peer.id);
        }
        peer.failed(problem.to_string(), was_connected);
        if was_connected && started.elapsed() >= CONNECTION_LIFE_MIN {
            wait = BACKOFF_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(wait)) => wait = (wait * 2).min(BACKOFF_MAX),
            () = peer.retry.notified() => {}
            _ = address.changed() => wait = BACKOFF_MIN,
        }
    }
}

async fn connect_and_send(session: &Session, peer: &Peer) -> Problem {
    let address = peer.address.borrow().clone();
    let dialled = dial::connect(session, peer.id, &address, Purpose::Messages).await;
    let connection = match dialled {
        Ok(connection) => connection,
        Err(problem) => return Problem::Dial(problem),
    };
    peer.connected();
    tracing::info!(peer = format!("{:x}", peer.id), address, "connected to a peer");
    Problem::Ended(stream::send(session, peer, connection).await)
}

/// Between half of it and all of it: servers that lost each other do not dial in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

impl Problem {
    /// Nothing listens at any of its addresses, or somebody on the way says so.
    fn is_refused_connection(&self) -> bool {
        matches!(self, Self::Dial(DialError::Connect { source, .. }) if dial::is_refused(source))
    }

    /// What the other side said, if it was that.
    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Dial(DialError::RefusedBy { refusal, .. })
            | Self::Ended(Ended::RefusedBy(refusal)) => Some(refusal),
            _ => None,
        }
    }
}
