//! The called side of a connection, and the transport's thread.
//!
//! Whoever reaches the port may call, so nothing is believed and everything is bounded: the
//! time of a handshake, the number of them, and what is read before it is known who calls.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::dial::{Connection, Tls, buffered, check, leaf_of, prepare};
use super::greeting::{self, Greeting, GreetingError, Purpose};
use super::session::{Incoming, Session};
use super::stream::{self, Ended};
use super::tls::{CertificateRefusal, explain};
use super::{STOP_MAX, Shared, snapshot};
use crate::cluster::Refusal;
use crate::sync::lock;

/// After the system refused to accept, as when there are no more file descriptors.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
enum TurnedAway {
    #[error("{0}")]
    Tls(String),
    #[error(transparent)]
    Certificate(#[from] CertificateRefusal),
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error("{0}")]
    Refused(Refusal),
    #[error("it refuses this server: {0}")]
    RefusedBy(Refusal),
    #[error("it did not greet within {seconds} s")]
    Late { seconds: u64 },
    #[error("{max} callers had not greeted yet, and it had waited longest")]
    TooMany { max: usize },
}

/// The whole life of the transport's thread.
pub(super) async fn serve(shared: Arc<Shared>, listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the peer port cannot be served");
            return;
        }
    };
    let mut sessions = shared.session.subscribe();
    loop {
        let session = sessions.borrow_and_update().clone();
        tokio::select! {
            () = shared.stop.cancelled() => break,
            _ = sessions.changed() => {}
            () = accept(session, &listener) => {}
        }
    }
    drop(listener);
    if let Some(session) = shared.session.send_replace(None) {
        session.tasks.close();
        let ended = tokio::time::timeout(STOP_MAX, session.tasks.wait()).await;
        if ended.is_err() {
            tracing::warn!("peer connections did not end in time");
        }
    }
}

/// Until this future is given up. Without a store, callers wait in the system's queue.
async fn accept(session: Option<Arc<Session>>, listener: &TcpListener) {
    let Some(session) = session.filter(|session| !session.stop.is_cancelled()) else {
        return std::future::pending().await;
    };
    let handshakes = Handshakes::new(session.shared.config.handshakes_max);
    let accepting = async {
        loop {
            match listener.accept().await {
                Ok((stream, caller)) => {
                    let place = handshakes.place();
                    session.spawn(answer(session.clone(), stream, caller, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a peer connection");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            }
        }
    };
    tokio::select! {
        () = session.stop.cancelled() => {}
        () = accepting => {}
    }
    // The store is gone: what it held is freed, and nobody asks after its peers any more.
    session.shared.session.send_if_modified(|current| {
        let is_mine = current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &session));
        if is_mine {
            *current = None;
        }
        is_mine
    });
    std::future::pending().await
}

async fn answer(session: Arc<Session>, stream: TcpStream, caller: SocketAddr, place: Place) {
    let stop = session.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = answer_until_stopped(session, stream, caller, place) => {}
    }
}

async fn answer_until_stopped(
    session: Arc<Session>,
    stream: TcpStream,
    caller: SocketAddr,
    place: Place,
) {
    let limit = session.shared.config.handshake_max;
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(limit, greet(&session, stream)) => {
            greeted.unwrap_or(Err(TurnedAway::Late { seconds: limit.as_secs() }))
        }
        () = place.lost.cancelled() => Err(TurnedAway::TooMany { max: place.all.max }),
    };
    drop(place);
    let (from, purpose, connection) = match greeted {
        Ok(greeted) => greeted,
        Err(error) => return session.shared.warnings.turned_away(caller, &error.to_string()),
    };
    let incoming = session.arrived(from, purpose);
    tracing::debug!(peer = format!("{from:x}"), %caller, ?purpose, "a peer has connected");
    let ended = match purpose {
        Purpose::Messages => stream::receive(&session, &incoming, connection).await,
        Purpose::Snapshot => snapshot::receive(&session, &incoming, connection).await,
    };
    session.left(&incoming);
    told(&session, &incoming, caller, &ended);
}

fn told(session: &Session, incoming: &Incoming, caller: SocketAddr, ended: &Ended) {
    if let Ended::RefusedBy(refusal) = ended {
        if let Some(peer) = session.peer(incoming.from) {
            peer.refused(refusal);
        }
        session.inbox.refused_by(incoming.from, refusal);
    }
    let peer = format!("{:x}", incoming.from);
    match ended {
        Ended::Closed | Ended::Replaced => {
            tracing::debug!(peer, %caller, reason = %ended, "a peer's connection ended");
        }
        _ => tracing::warn!(peer, %caller, reason = %ended, "a peer's connection ended"),
    }
}

/// Who calls and what for, once that is beyond doubt.
async fn greet(
    session: &Session,
    tcp: TcpStream,
) -> Result<(u64, Purpose, Connection), TurnedAway> {
    prepare(&tcp);
    let tls = session.shared.tls.load_full();
    let accepted = TlsAcceptor::from(tls.server.clone()).accept(buffered(tcp)).await;
    let mut stream = Tls::from(accepted.map_err(|error| TurnedAway::Tls(explain(&error)))?);
    let member = match tls.member_of(leaf_of(&stream)) {
        Ok(member) => member,
        Err(refusal) => {
            let text = Refusal::Other(refusal.to_string());
            greeting::write(&mut stream, &Greeting::Refusal(text)).await?;
            return Err(refusal.into());
        }
    };
    let mine = session.inbox.hello(member.member_id);
    let purpose = Purpose::Messages;
    let said = Greeting::Hello { purpose, hello: mine.clone() };
    greeting::write(&mut stream, &said).await?;
    let (purpose, hello) = match greeting::read(&mut stream).await? {
        Greeting::Hello { purpose, hello } => (purpose, hello),
        Greeting::Refusal(refusal) => {
            session.inbox.refused_by(member.member_id, &refusal);
            return Err(TurnedAway::RefusedBy(refusal));
        }
    };
    if let Err(refusal) = check(session, member.member_id, &mine, &hello) {
        greeting::write(&mut stream, &Greeting::Refusal(refusal.clone())).await?;
        return Err(TurnedAway::Refused(refusal));
    }
    let hello = session.inbox.hello(member.member_id);
    greeting::write(&mut stream, &Greeting::Hello { purpose, hello }).await?;
    Ok((member.member_id, purpose, Connection::new(stream)))
}

/// Callers that have not greeted yet, the oldest first.
#[derive(Debug, Clone)]
struct Handshakes {
    waiting: Arc<Mutex<VecDeque<CancellationToken>>>,
    max: usize,
}

/// One of them. Given back when it is dropped.
#[derive(Debug)]
struct Place {
    all: Handshakes,
    /// Cancelled when a newer caller has taken it.
    lost: CancellationToken,
}

impl Handshakes {
    fn new(max: usize) -> Self {
        Self { waiting: Arc::default(), max: max.max(1) }
    }

    /// A member greets within milliseconds, so it is the idle ones that must make room.
    fn place(&self) -> Place {
        let lost = CancellationToken::new();
        let mut waiting = lock(&self.waiting);
        waiting.retain(|token| !token.is_cancelled());
        if waiting.len() >= self.max
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.cancel();
        }
        waiting.push_back(lost.clone());
        Place { all: self.clone(), lost }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_callers_the_one_that_waited_longest_goes() {
        let handshakes = Handshakes::new(2);
        let (first, second) = (handshakes.place(), handshakes.place());
        assert!(!first.lost.is_cancelled());
        let third = handshakes.place();
        assert!(first.lost.is_cancelled());
        assert!(!second.lost.is_cancelled() && !third.lost.is_cancelled());
        drop(second);
        let fourth = handshakes.place();
        assert!(!third.lost.is_cancelled() && !fourth.lost.is_cancelled());
    }
}
