//! The channel protocol over WebSocket: the first byte of a message names its channel.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::kubelet::remote::{Channel, Far, parse_size};

/// Subprotocols of exec and attach, best first.
pub const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// How long the other side may take to end its side too.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// Version 5: the next byte names a channel that the client closes.
const CLOSE: u8 = 255;

pub async fn accept<S>(stream: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

/// Clients take any other end for a failure.
#[must_use]
pub fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() }))
}

/// How messages look in one subprotocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    base64: bool,
    /// The end is a Status object; else its text.
    status: bool,
    closes: bool,
}

impl Form {
    fn of(protocol: &str) -> Form {
        Form {
            base64: protocol.contains("base64"),
            status: protocol.starts_with("v4.") || protocol.starts_with("v5."),
            closes: protocol.starts_with("v5."),
        }
    }

    fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        if self.base64 {
            return Message::text(format!("{channel}{}", STANDARD.encode(bytes)));
        }
        let mut framed = BytesMut::with_capacity(bytes.len() + 1);
        framed.put_u8(channel);
        framed.put_slice(bytes);
        Message::binary(framed.freeze())
    }

    fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return None,
        };
        let channel = *bytes.first()?;
        if self.base64 {
            let decoded = STANDARD.decode(bytes.get(1..)?).ok()?;
            return Some((channel.checked_sub(b'0')?, decoded.into()));
        }
        Some((channel, bytes.slice(1..)))
    }

    fn end(self, status: &Value) -> Option<Message> {
        if self.status {
            return Some(self.encode(ERROR, status.to_string().as_bytes()));
        }
        let failed = status["status"] != "Success";
        failed
            .then(|| self.encode(ERROR, status["message"].as_str().unwrap_or_default().as_bytes()))
    }
}

/// Serves one exec or attach session to its end.
pub async fn serve<S>(socket: WebSocketStream<S>, protocol: &str, far: Far)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let form = Form::of(protocol);
    let (mut sink, mut messages) = socket.split();
    let Far { stdin, resize, output, end, closed } = far;
    let result = {
        let write = write(form, &mut sink, output, end);
        let read = read(form, &mut messages, stdin, resize);
        tokio::pin!(read);
        tokio::select! {
            result = write => match result {
                // Whatever the client still sends is taken in: an end with bytes unread
                // would reset the connection, and what was last written would be lost.
                Ok(()) => {
                    tokio::time::timeout(GOODBYE_TIMEOUT, &mut read).await.unwrap_or(Ok(()))
                }
                Err(error) => Err(error),
            },
            result = &mut read => result,
        }
    };
    closed.cancel();
    if let Err(error) = result {
        tracing::debug!(%error, "stream client");
    }
    if let Ok(mut socket) = sink.reunite(messages) {
        hang_up(socket.get_mut()).await;
    }
}

/// The output, then how it ended.
async fn write(
    form: Form,
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    mut output: mpsc::Receiver<(Channel, Bytes)>,
    end: oneshot::Receiver<Value>,
) -> Result<(), Error> {
    // Tells the client which channels there are before anything is written.
    sink.send(form.encode(STDOUT, &[])).await?;
    while let Some((channel, bytes)) = output.recv().await {
        let channel = match channel {
            Channel::Stdout => STDOUT,
            Channel::Stderr => STDERR,
        };
        sink.send(form.encode(channel, &bytes)).await?;
    }
    if let Ok(status) = end.await
        && let Some(message) = form.end(&status)
    {
        sink.send(message).await?;
    }
    sink.send(goodbye()).await
}

/// Says goodbye on the transport too: whoever passes the bytes on takes an end without it
/// for a failure, and drops what it has not passed on yet.
pub async fn hang_up(stream: &mut (impl AsyncWrite + Unpin)) {
    let ended = tokio::time::timeout(GOODBYE_TIMEOUT, stream.shutdown()).await;
    tracing::trace!(clean = matches!(ended, Ok(Ok(()))), "stream ended");
}

/// Until the client closes the connection.
async fn read(
    form: Form,
    mut messages: impl Stream<Item = Result<Message, Error>> + Unpin,
    stdin: mpsc::Sender<Bytes>,
    resize: mpsc::Sender<(u16, u16)>,
) -> Result<(), Error> {
    let mut stdin = Some(stdin);
    while let Some(message) = messages.next().await {
        let message = message?;
        if message.is_close() {
            return Ok(());
        }
        let Some((channel, bytes)) = form.decode(message) else { continue };
        match channel {
            STDIN => {
                if let Some(input) = &stdin
                    && input.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            RESIZE => {
                if let Some(size) = parse_size(&bytes)
                    && resize.send(size).await.is_err()
                {
                    tracing::trace!("resize after the end");
                }
            }
            CLOSE if form.closes && bytes.first() == Some(&STDIN) => stdin = None,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "websocket/tests.rs"]
mod tests;
