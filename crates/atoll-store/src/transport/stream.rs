//! Messages on a connection: sent by the side that dialled, received by the other.
//!
//! The dialling side pings; a side that hears nothing for too long closes the connection, so that
//! a peer that hangs or is cut off is not taken for one that has nothing to say.

use std::convert::Infallible;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::dial::{Connection, Tls};
use super::frame::{self, Assembler, Batch, Frame, FrameError, FrameReader, Kind};
use super::peer::Peer;
use super::session::{Incoming, Session};
use super::{greeting, tls};
use crate::cluster::Refusal;
use crate::sync::lock;

/// Telling a peer why it is refused takes at most this long.
const REFUSE_MAX: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("it closed the connection")]
    Closed,
    #[error("it was silent for {seconds} s")]
    Silent { seconds: u64 },
    #[error("a newer connection of the same member took its place")]
    Replaced,
    #[error("it refuses this server: {0}")]
    RefusedBy(Refusal),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("writing to it failed: {}", tls::explain(.0))]
    Write(io::Error),
}

/// When something was last heard on a connection. Shared by the futures of one task.
#[derive(Debug)]
pub(super) struct Heard {
    start: Instant,
    /// Since the start.
    last_ms: AtomicU64,
}

impl Heard {
    pub(super) fn now() -> Self {
        Self { start: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    pub(super) fn note(&self) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(since, Ordering::Relaxed);
    }

    /// Returns when nothing was heard for so long.
    pub(super) async fn silence(&self, max: Duration) -> Ended {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let until = self.start + last + max;
            if Instant::now() >= until {
                return Ended::Silent { seconds: max.as_secs() };
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Sends what waits for the peer, until the connection ends.
pub(super) async fn send(session: &Session, peer: &Peer, connection: Connection) -> Ended {
    let Connection { mut reader, mut writer } = connection;
    let config = &session.shared.config;
    let (heard, pings) = (Heard::now(), Pings::default());
    let ended = tokio::select! {
        ended = write_queue(peer, &mut writer) => ended,
        ended = read_answers(peer, &mut reader, &heard, &pings) => ended,
        ended = heard.silence(config.silence_max) => Err(ended),
        never = pings.send(peer, config.ping_every) => match never {},
    };
    match ended {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

async fn write_queue(peer: &Peer, writer: &mut WriteHalf<Tls>) -> Result<Infallible, Ended> {
    let mut batch = Batch::default();
    loop {
        loop {
            let filled = peer.queue.fill(&mut batch);
            if !filled.any {
                break;
            }
            let bytes = batch.bytes() as u64;
            writer.write_all_buf(&mut batch).await.map_err(Ended::Write)?;
            peer.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            peer.sent_messages.fetch_add(filled.messages, Ordering::Relaxed);
        }
        // What TLS holds back while the socket is full.
        writer.flush().await.map_err(Ended::Write)?;
        peer.queue.ready().await;
    }
}

async fn read_answers(
    peer: &Peer,
    reader: &mut FrameReader<ReadHalf<Tls>>,
    heard: &Heard,
    pings: &Pings,
) -> Result<Infallible, Ended> {
    loop {
        let Some(frame) = reader.next().await? else { return Err(Ended::Closed) };
        heard.note();
        match frame.kind {
            Kind::Pong => {
                if let Some(round_trip) = pings.answered(&frame.payload) {
                    peer.answered(round_trip);
                }
            }
            Kind::Refused => return Err(refused(&frame.payload)),
            kind => return Err(FrameError::Misplaced { kind }.into()),
        }
    }
}

/// The pings of one connection: number and time of the last.
#[derive(Debug, Default)]
struct Pings {
    last: Mutex<Option<(u64, Instant)>>,
}

impl Pings {
    async fn send(&self, peer: &Peer, every: Duration) -> Infallible {
        let mut number = 0;
        loop {
            number += 1;
            *lock(&self.last) = Some((number, Instant::now()));
            peer.queue.ping(number);
            tokio::time::sleep(every).await;
        }
    }

    fn answered(&self, payload: &[u8]) -> Option<Duration> {
        let number = payload.try_into().map(u64::from_le_bytes).ok()?;
        let (last, at) = (*lock(&self.last))?;
        (last == number).then(|| at.elapsed())
    }
}

/// Gives the store what a member sends, until the connection ends.
pub(super) async fn receive(
    session: &Session,
    incoming: &Incoming,
    connection: Connection,
) -> Ended {
    let Connection { mut reader, mut writer } = connection;
    let heard = Heard::now();
    tokio::select! {
        ended = read_messages(session, incoming, &mut reader, &mut writer, &heard) => {
            match ended {
                Ok(never) => match never {},
                Err(ended) => ended,
            }
        }
        ended = heard.silence(session.shared.config.silence_max) => ended,
        () = incoming.replaced.cancelled() => Ended::Replaced,
    }
}

async fn read_messages(
    session: &Session,
    incoming: &Incoming,
    reader: &mut FrameReader<ReadHalf<Tls>>,
    writer: &mut WriteHalf<Tls>,
    heard: &Heard,
) -> Result<Infallible, Ended> {
    let mut assembler = Assembler::default();
    loop {
        if !reader.has_frame() {
            session.inbox.settle();
        }
        let Some(Frame { kind, payload }) = reader.next().await? else {
            return Err(Ended::Closed);
        };
        heard.note();
        let bytes = (frame::HEADER_BYTES + payload.len()) as u64;
        incoming.bytes.fetch_add(bytes, Ordering::Relaxed);
        match kind {
            Kind::Urgent => deliver(session, incoming, payload),
            Kind::Bulk => deliver(session, incoming, assembler.finish(payload)?),
            Kind::Part => assembler.add(&payload)?,
            Kind::Ping => write_frame(writer, Kind::Pong, &payload).await?,
            Kind::Refused => return Err(refused(&payload)),
            kind => return Err(FrameError::Misplaced { kind }.into()),
        }
    }
}

fn deliver(session: &Session, incoming: &Incoming, message: Bytes) {
    incoming.messages.fetch_add(1, Ordering::Relaxed);
    if !session.inbox.deliver(incoming.from, message) {
        incoming.refused.fetch_add(1, Ordering::Relaxed);
    }
}

fn refused(payload: &[u8]) -> Ended {
    let refusal = greeting::read_refusal(payload);
    let unread = || Refusal::Other("it gives a reason that cannot be read".to_owned());
    Ended::RefusedBy(refusal.unwrap_or_else(unread))
}

pub(super) async fn write_frame<W>(writer: &mut W, kind: Kind, payload: &[u8]) -> Result<(), Ended>
where
    W: AsyncWrite + Unpin,
{
    writer.write_all(&frame::encode(kind, payload)).await.map_err(Ended::Write)?;
    writer.flush().await.map_err(Ended::Write)
}

/// Tells the other side why it is not talked to. It may be gone already.
pub(super) async fn refuse(connection: &mut Connection, refusal: &Refusal) {
    let mut payload = Vec::new();
    greeting::put_refusal(&mut payload, refusal);
    let told = async {
        write_frame(&mut connection.writer, Kind::Refused, &payload).await?;
        connection.writer.shutdown().await.map_err(Ended::Write)
    };
    match tokio::time::timeout(REFUSE_MAX, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "telling a peer that it is refused"),
        Err(_elapsed) => tracing::debug!("a refused peer does not read"),
    }
}
