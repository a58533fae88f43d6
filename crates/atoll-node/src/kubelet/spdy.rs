//! SPDY/3.1 as Kubernetes clients speak it: many streams over one connection.
//!
//! Flow-control windows are not kept, since the clients' library keeps none either;
//! instead each stream's receiver is bounded and the connection waits for it.

mod dictionary;
pub mod frame;

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::mpsc;

pub use frame::Headers;
use frame::{FLAG_FIN, Frame, Reader, Writer};

/// Things that happened on the connection and are not handled yet; the peer waits.
pub const EVENTS_MAX: usize = 32;
/// Frames not yet written; whoever sends waits.
pub const FRAMES_MAX: usize = 32;

/// What the peer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Opened { stream: u32, headers: Headers, fin: bool },
    Data { stream: u32, bytes: Bytes, fin: bool },
    Reset { stream: u32 },
}

/// What to tell the peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tell {
    Data { stream: u32, bytes: Bytes, fin: bool },
    Reset { stream: u32 },
    GoAway,
}

/// One end of a connection.
pub struct Connection {
    pub events: mpsc::Receiver<Event>,
    pub tell: mpsc::Sender<Tell>,
}

/// Splits a byte stream into streams. The returned future drives it to its end.
pub fn connection<S>(io: S) -> (Connection, impl Future<Output = io::Result<()>>)
where
    S: AsyncRead + AsyncWrite,
{
    let (event_in, events) = mpsc::channel(EVENTS_MAX);
    let (tell, tells) = mpsc::channel(FRAMES_MAX);
    (Connection { events, tell }, drive(io, event_in, tells))
}

async fn drive<S>(io: S, events: mpsc::Sender<Event>, tells: mpsc::Receiver<Tell>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite,
{
    let (read, write) = tokio::io::split(io);
    let (answers, answered) = mpsc::channel(FRAMES_MAX);
    let reading = read_all(Reader::new(BufReader::new(read)), events, answers);
    let writing = write_all(Writer::new(write), tells, answered);
    tokio::select! {
        result = reading => result,
        result = writing => result,
    }
}

async fn read_all<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    events: mpsc::Sender<Event>,
    answers: mpsc::Sender<Frame>,
) -> io::Result<()> {
    while let Some(frame) = reader.next().await? {
        let event = match frame {
            Frame::SynStream { stream, headers, flags } => {
                let reply = Frame::SynReply { stream };
                if answers.send(reply).await.is_err() {
                    return Ok(());
                }
                Event::Opened { stream, headers, fin: flags & FLAG_FIN != 0 }
            }
            Frame::Data { stream, bytes, flags } => {
                Event::Data { stream, bytes, fin: flags & FLAG_FIN != 0 }
            }
            Frame::Reset { stream, .. } => Event::Reset { stream },
            Frame::Ping { id } => {
                if answers.send(Frame::Ping { id }).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            Frame::GoAway => return Ok(()),
            Frame::SynReply { .. } | Frame::Other => continue,
        };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: Writer<W>,
    mut tells: mpsc::Receiver<Tell>,
    mut answers: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            Some(frame) = answers.recv() => writer.write(frame).await?,
            tell = tells.recv() => match tell {
                Some(Tell::Data { stream, bytes, fin }) => {
                    let flags = if fin { FLAG_FIN } else { 0 };
                    writer.write(Frame::Data { stream, bytes, flags }).await?;
                }
                Some(Tell::Reset { stream }) => {
                    writer.write(Frame::Reset { stream, status: 5 }).await?;
                }
                Some(Tell::GoAway) => writer.write(Frame::GoAway).await?,
                None => return writer.finish().await,
            },
        }
    }
}

/// A header's value, by its lower-case name.
#[must_use]
pub fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}
