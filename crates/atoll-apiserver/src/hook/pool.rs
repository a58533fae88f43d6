//! Connections that wait for the next call.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{SendError, broken};
use crate::pipeline::RequestBody;

/// Idle connections to one address; upstream's number. More are closed after their call.
const IDLE_MAX: usize = 25;
/// How long a connection waits for another call; upstream's number.
const IDLE_FOR: Duration = Duration::from_secs(90);
/// Addresses with idle connections; beyond it those of all that are too old are let go.
const ADDRESSES_MAX: usize = 256;
/// How long a connection whose last answer has been read may take to say that it is free.
const READY_WITHIN: Duration = Duration::from_millis(2);

/// Idle connections by address and whom they trust.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<String, VecDeque<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection in use. Dropped, it closes; given back, it serves again.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    key: String,
    sender: SendRequest<RequestBody>,
}

impl Pool {
    /// An idle connection, the youngest first.
    pub(super) async fn take(self: &Arc<Self>, key: &str) -> Option<Lease> {
        loop {
            let idle = self.lock().get_mut(key).and_then(VecDeque::pop_back)?;
            if idle.since.elapsed() > IDLE_FOR {
                continue;
            }
            let mut sender = idle.sender;
            let ready = tokio::time::timeout(READY_WITHIN, sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                return Some(Lease { pool: self.clone(), key: key.to_owned(), sender });
            }
        }
    }

    /// Begins to speak HTTP on a new connection.
    pub(super) async fn open<S>(
        self: &Arc<Self>,
        key: String,
        stream: S,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Lease, SendError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let opened = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(|error| broken(&error))?;
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                ended = connection.with_upgrades() => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to a server that is called ended");
                }
            }
        });
        Ok(Lease { pool: self.clone(), key, sender })
    }

    fn put(&self, key: String, sender: SendRequest<RequestBody>) {
        let mut idle = self.lock();
        if idle.len() >= ADDRESSES_MAX {
            idle.retain(|_, all| {
                all.retain(|one| one.since.elapsed() <= IDLE_FOR && !one.sender.is_closed());
                !all.is_empty()
            });
        }
        let own = idle.entry(key).or_default();
        own.retain(|one| one.since.elapsed() <= IDLE_FOR && !one.sender.is_closed());
        if own.len() < IDLE_MAX {
            own.push_back(Idle { sender, since: Instant::now() });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, VecDeque<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Sends a request. Where nothing of it went out, the error brings it back.
    pub(super) async fn try_send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, (SendError, Option<Request<RequestBody>>)> {
        self.sender.try_send_request(request).await.map_err(|mut error| {
            let unsent = error.take_message();
            (broken(error.error()), unsent)
        })
    }

    /// The connection serves again: the answer has been read to its end.
    pub(crate) fn give_back(self) {
        if !self.sender.is_closed() {
            self.pool.put(self.key, self.sender);
        }
    }
}
