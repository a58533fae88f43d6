//! A store's state on its way to one member: a connection of its own, one at a time to each.
//!
//! First the message that goes with it, then the content in chunks at a limited rate, then its
//! length and checksum; the receiver answers when it has it whole and on disk. Both sides say
//! something every second, however long their disks take. A snapshot that breaks off is sent anew
//! from its beginning: Raft asks for it again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dial::{self, Connection, DialError, Tls};
use super::frame::{
    Assembler, Batch, FRAME_BYTES_MAX, Frame, FrameError, FrameReader, Kind, MESSAGE_BYTES_MAX,
    PART_BYTES,
};
use super::greeting::Purpose;
use super::peer::Peer;
use super::session::{Incoming, Session};
use super::stream::{Ended, Heard, write_frame};
use crate::cluster::{OutgoingSnapshot, SnapshotSink};
use crate::kv;

/// Chunks between the thread of the disk and the connection.
const CHUNKS_MAX: usize = 4;
/// Whoever has nothing to say says so this often.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// A side that hears nothing for this long gives up.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often a transfer says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("it is not a peer of this server")]
    NoPeer,
    #[error("another snapshot is on its way to it")]
    Busy,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection ended: {0}")]
    Ended(#[from] Ended),
    #[error("the receiver gave up: {0}")]
    Receiver(String),
    #[error("the state cannot be read")]
    Content(#[source] kv::Error),
    #[error("its message has {bytes} bytes; the limit is {MESSAGE_BYTES_MAX}")]
    MessageTooLong { bytes: usize },
    #[error("the thread that reads the state has ended")]
    ReaderEnded,
}

/// Sends it and tells the store how that went.
pub(super) async fn send(
    session: Arc<Session>,
    peer: Option<Arc<Peer>>,
    snapshot: OutgoingSnapshot,
) {
    let to = snapshot.to;
    let sent = tokio::select! {
        () = session.stop.cancelled() => return session.inbox.snapshot_sent(to, false),
        sent = send_to(&session, peer.as_deref(), snapshot) => sent,
    };
    let peer = format!("{to:x}");
    match &sent {
        Ok(bytes) => tracing::info!(peer, bytes, "a snapshot has arrived"),
        Err(error) => {
            let error = error as &dyn std::error::Error;
            tracing::warn!(peer, error, "a snapshot has not arrived");
        }
    }
    session.inbox.snapshot_sent(to, sent.is_ok());
}

async fn send_to(
    session: &Session,
    peer: Option<&Peer>,
    snapshot: OutgoingSnapshot,
) -> Result<u64, SendError> {
    let peer = peer.ok_or(SendError::NoPeer)?;
    if peer.is_sending_snapshot.swap(true, Ordering::AcqRel) {
        return Err(SendError::Busy);
    }
    let sent = tokio::select! {
        () = peer.stop.cancelled() => Err(SendError::NoPeer),
        sent = connect_and_send(session, peer, snapshot) => sent,
    };
    peer.is_sending_snapshot.store(false, Ordering::Release);
    sent
}

async fn connect_and_send(
    session: &Session,
    peer: &Peer,
    snapshot: OutgoingSnapshot,
) -> Result<u64, SendError> {
    let address = peer.address.borrow().clone();
    let connection = dial::connect(session, peer.id, &address, Purpose::Snapshot).await?;
    let Connection { mut reader, mut writer } = connection;
    let heard = Heard::now();
    let mut sender = Sender { session, peer, writer: &mut writer, bytes: 0, sum: 0 };
    tokio::select! {
        // It sends to the end, and then only that it is still there.
        error = sender.send(snapshot) => Err(error),
        answer = answer(&mut reader, &heard) => answer,
        ended = heard.silence(SILENCE_MAX) => Err(ended.into()),
    }?;
    Ok(sender.bytes)
}

async fn answer(reader: &mut FrameReader<ReadHalf<Tls>>, heard: &Heard) -> Result<(), SendError> {
    loop {
        let next = reader.next().await.map_err(Ended::Frame)?;
        let Some(Frame { kind, payload }) = next else { return Err(Ended::Closed.into()) };
        heard.note();
        match kind {
            Kind::Pong => {}
            Kind::SnapshotArrived => return Ok(()),
            Kind::SnapshotFailed => {
                return Err(SendError::Receiver(String::from_utf8_lossy(&payload).into_owned()));
            }
            kind => return Err(Ended::Frame(FrameError::Misplaced { kind }).into()),
        }
    }
}

struct Sender<'a> {
    session: &'a Session,
    peer: &'a Peer,
    writer: &'a mut WriteHalf<Tls>,
    bytes: u64,
    sum: u32,
}

impl Sender<'_> {
    /// Returns only when it failed: the receiver has the last word.
    async fn send(&mut self, snapshot: OutgoingSnapshot) -> SendError {
        match self.send_all(snapshot).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn send_all(
        &mut self,
        snapshot: OutgoingSnapshot,
    ) -> Result<std::convert::Infallible, SendError> {
        let OutgoingSnapshot { message, content, .. } = snapshot;
        self.message(message).await?;
        let (chunks_in, mut chunks) = mpsc::channel(CHUNKS_MAX);
        self.session.tasks.spawn_blocking_on(
            move || read_content(content, &chunks_in),
            &self.session.shared.runtime,
        );
        let mut pace = Pace::new(self.session.shared.config.snapshot_bytes_per_second.get());
        let mut progress_at = Instant::now() + PROGRESS_EVERY;
        let mut ended = false;
        loop {
            let chunk = match tokio::time::timeout(ALIVE_EVERY, chunks.recv()).await {
                Ok(Some(ReadChunk::Some(chunk))) => chunk?,
                Ok(Some(ReadChunk::End)) => {
                    self.end().await?;
                    ended = true;
                    continue;
                }
                Ok(None) if !ended => return Err(SendError::ReaderEnded),
                Ok(None) => {
                    tokio::time::sleep(ALIVE_EVERY).await;
                    self.alive().await?;
                    continue;
                }
                Err(_elapsed) => {
                    self.alive().await?;
                    continue;
                }
            };
            for piece in pieces(chunk, FRAME_BYTES_MAX) {
                pace.wait(piece.len()).await;
                self.chunk(piece).await?;
            }
            if Instant::now() >= progress_at {
                progress_at += PROGRESS_EVERY;
                let peer = format!("{:x}", self.peer.id);
                tracing::info!(peer, sent_bytes = self.bytes, "a snapshot is on its way");
            }
        }
    }

    async fn message(&mut self, message: Bytes) -> Result<(), SendError> {
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::MessageTooLong { bytes: message.len() });
        }
        let mut parts: Vec<Bytes> = pieces(message, PART_BYTES).collect();
        let last = parts.pop().unwrap_or_default();
        let mut batch = Batch::default();
        for part in parts {
            batch.push(Kind::Part, part);
        }
        batch.push(Kind::SnapshotBegin, last);
        self.write(batch).await
    }

    async fn chunk(&mut self, piece: Bytes) -> Result<(), SendError> {
        self.bytes += piece.len() as u64;
        self.sum = crc32c::crc32c_append(self.sum, &piece);
        let mut batch = Batch::default();
        batch.push(Kind::SnapshotChunk, piece);
        self.write(batch).await
    }

    async fn end(&mut self) -> Result<(), SendError> {
        let payload = encode_end(self.bytes, self.sum);
        Ok(write_frame(self.writer, Kind::SnapshotEnd, &payload).await?)
    }

    async fn alive(&mut self) -> Result<(), SendError> {
        Ok(write_frame(self.writer, Kind::Ping, &[]).await?)
    }

    async fn write(&mut self, mut batch: Batch) -> Result<(), SendError> {
        batch.seal();
        self.writer.write_all_buf(&mut batch).await.map_err(Ended::Write)?;
        Ok(self.writer.flush().await.map_err(Ended::Write)?)
    }
}

/// What the thread that reads the content hands on. An end of its own, because a channel that
/// merely closes may also mean a panic.
enum ReadChunk {
    Some(Result<Bytes, SendError>),
    End,
}

fn read_content(
    content: Box<dyn Iterator<Item = Result<Bytes, kv::Error>> + Send>,
    chunks: &mpsc::Sender<ReadChunk>,
) {
    for chunk in content {
        let chunk = chunk.map_err(SendError::Content);
        let failed = chunk.is_err();
        if chunks.blocking_send(ReadChunk::Some(chunk)).is_err() || failed {
            return;
        }
    }
    // If nobody waits for the end, the transfer has failed already.
    drop(chunks.blocking_send(ReadChunk::End));
}

fn pieces(mut whole: Bytes, bytes_max: usize) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let piece = whole.split_to(whole.len().min(bytes_max));
        (!piece.is_empty()).then_some(piece)
    })
}

/// Spreads bytes over time. What was not used is not saved up.
struct Pace {
    bytes_per_second: u64,
    free_at: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Instant::now() }
    }

    async fn wait(&mut self, bytes: usize) {
        tokio::time::sleep_until(self.free_at).await;
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
        self.free_at = self.free_at.max(Instant::now()) + Duration::from_nanos(nanos);
    }
}

fn encode_end(bytes: u64, sum: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&bytes.to_le_bytes());
    out[8..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// What the receiver's thread is told.
enum Content {
    Chunk(Bytes),
    End,
}

/// Takes a snapshot in and answers.
pub(super) async fn receive(
    session: &Session,
    incoming: &Incoming,
    connection: Connection,
) -> Ended {
    let Connection { mut reader, mut writer } = connection;
    let taken = tokio::select! {
        taken = take_in(session, incoming, &mut reader) => taken,
        ended = say_alive(&mut writer) => return ended,
        () = incoming.replaced.cancelled() => return Ended::Replaced,
    };
    let peer = format!("{:x}", incoming.from);
    let answered = match taken {
        Ok(Ok(bytes)) => {
            tracing::info!(peer, bytes, "a snapshot was received");
            write_frame(&mut writer, Kind::SnapshotArrived, &[]).await
        }
        Ok(Err(error)) => {
            tracing::warn!(peer, %error, "a snapshot could not be taken in");
            write_frame(&mut writer, Kind::SnapshotFailed, text(&error).as_bytes()).await
        }
        Err(ended) => Err(ended),
    };
    match answered {
        Err(ended) => ended,
        Ok(()) => match writer.shutdown().await {
            Ok(()) => Ended::Closed,
            Err(error) => Ended::Write(error),
        },
    }
}

/// Short enough for a frame, whatever a disk's error says.
fn text(error: &io::Error) -> String {
    error.to_string().chars().take(1024).collect()
}

async fn say_alive(writer: &mut WriteHalf<Tls>) -> Ended {
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        if let Err(ended) = write_frame(writer, Kind::Pong, &[]).await {
            return ended;
        }
    }
}

/// The outer error is the connection's, the inner one is for the sender to know.
async fn take_in(
    session: &Session,
    incoming: &Incoming,
    reader: &mut FrameReader<ReadHalf<Tls>>,
) -> Result<io::Result<u64>, Ended> {
    let message = read_message(incoming, reader).await?;
    let sink = match session.inbox.begin_snapshot(incoming.from, message) {
        Ok(sink) => sink,
        Err(error) => return Ok(Err(error)),
    };
    let (chunks, chunks_out) = mpsc::channel(CHUNKS_MAX);
    let writing = session
        .tasks
        .spawn_blocking_on(move || write_content(sink, chunks_out), &session.shared.runtime);
    let bytes = match read_chunks(incoming, reader, &chunks).await {
        Ok(bytes) => bytes,
        // The sink's own error says more than that nobody takes chunks any more.
        Err(ReadError::SinkEnded) => 0,
        Err(ReadError::Ended(ended)) => return Err(ended),
        Err(ReadError::NotWhole(error)) => return Ok(Err(error)),
    };
    drop(chunks);
    let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    Ok(written.map(|()| bytes))
}

enum ReadError {
    Ended(Ended),
    NotWhole(io::Error),
    SinkEnded,
}

async fn read_message(
    incoming: &Incoming,
    reader: &mut FrameReader<ReadHalf<Tls>>,
) -> Result<Bytes, Ended> {
    let mut assembler = Assembler::default();
    loop {
        let Frame { kind, payload } = next(incoming, reader).await?;
        match kind {
            Kind::Part => assembler.add(&payload)?,
            Kind::SnapshotBegin => return Ok(assembler.finish(payload)?),
            kind => return Err(FrameError::Misplaced { kind }.into()),
        }
    }
}

/// The next frame that is more than a sign of life.
async fn next(
    incoming: &Incoming,
    reader: &mut FrameReader<ReadHalf<Tls>>,
) -> Result<Frame, Ended> {
    loop {
        let read = tokio::time::timeout(SILENCE_MAX, reader.next()).await;
        let Ok(read) = read else { return Err(Ended::Silent { seconds: SILENCE_MAX.as_secs() }) };
        let Some(frame) = read? else { return Err(Ended::Closed) };
        incoming.bytes.fetch_add(frame.payload.len() as u64, Ordering::Relaxed);
        if frame.kind != Kind::Ping {
            return Ok(frame);
        }
    }
}

async fn read_chunks(
    incoming: &Incoming,
    reader: &mut FrameReader<ReadHalf<Tls>>,
    chunks: &mpsc::Sender<Content>,
) -> Result<u64, ReadError> {
    let (mut bytes, mut sum) = (0_u64, 0);
    loop {
        let Frame { kind, payload } = next(incoming, reader).await.map_err(ReadError::Ended)?;
        let content = match kind {
            Kind::SnapshotChunk => {
                bytes += payload.len() as u64;
                sum = crc32c::crc32c_append(sum, &payload);
                Content::Chunk(payload)
            }
            Kind::SnapshotEnd if payload == encode_end(bytes, sum)[..] => Content::End,
            Kind::SnapshotEnd => {
                let text = format!("the content that arrived ({bytes} bytes) is not what was sent");
                return Err(ReadError::NotWhole(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            kind => return Err(ReadError::Ended(FrameError::Misplaced { kind }.into())),
        };
        let is_end = matches!(content, Content::End);
        chunks.send(content).await.map_err(|_ended| ReadError::SinkEnded)?;
        if is_end {
            return Ok(bytes);
        }
    }
}

/// On a thread that may block. Without an end the sink is dropped, and gives up what it has.
fn write_content(
    mut sink: Box<dyn SnapshotSink>,
    mut chunks: mpsc::Receiver<Content>,
) -> io::Result<()> {
    loop {
        match chunks.blocking_recv() {
            Some(Content::Chunk(chunk)) => sink.push(&chunk)?,
            Some(Content::End) => return sink.finish(),
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off")),
        }
    }
}
