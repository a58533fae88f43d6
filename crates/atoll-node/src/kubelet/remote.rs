//! A client's session with a command: what WebSocket and SPDY have in common.

use atoll_container::Streams;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::fd_stream::FdStream;

/// Pieces of input or output on their way; whoever is faster waits.
pub const PIECES_MAX: usize = 32;
/// Terminal sizes not yet passed on.
pub const RESIZES_MAX: usize = 4;
const PIECE_BYTES: usize = 32 << 10;

/// Where output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// The command's side.
pub struct Session {
    /// Ends when the client closes its input.
    pub stdin: mpsc::Receiver<Bytes>,
    /// Columns and rows.
    pub resize: mpsc::Receiver<(u16, u16)>,
    pub output: mpsc::Sender<(Channel, Bytes)>,
    /// What the client is told when all output has been passed on.
    pub end: oneshot::Sender<Value>,
    /// The client is gone.
    pub closed: CancellationToken,
}

/// The protocol's side of the same.
pub struct Far {
    pub stdin: mpsc::Sender<Bytes>,
    pub resize: mpsc::Sender<(u16, u16)>,
    pub output: mpsc::Receiver<(Channel, Bytes)>,
    pub end: oneshot::Receiver<Value>,
    pub closed: CancellationToken,
}

#[must_use]
pub fn pair() -> (Session, Far) {
    let (stdin_in, stdin_out) = mpsc::channel(PIECES_MAX);
    let (resize_in, resize_out) = mpsc::channel(RESIZES_MAX);
    let (output_in, output_out) = mpsc::channel(PIECES_MAX);
    let (end_in, end_out) = oneshot::channel();
    let closed = CancellationToken::new();
    (
        Session {
            stdin: stdin_out,
            resize: resize_out,
            output: output_in,
            end: end_in,
            closed: closed.clone(),
        },
        Far { stdin: stdin_in, resize: resize_in, output: output_out, end: end_out, closed },
    )
}

#[must_use]
pub fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

#[must_use]
pub fn internal_error(message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": message})
}

/// The end of a command: its exit code, if it is not 0, as upstream wraps it.
#[must_use]
pub fn exit_status(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: error executing command, exit code {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}})
}

/// Copies between a client and a command's descriptors until the output ends or the
/// client goes. Returns whether the client is still there.
pub async fn copy(
    streams: Streams,
    stdin: mpsc::Receiver<Bytes>,
    resize: mpsc::Receiver<(u16, u16)>,
    output: mpsc::Sender<(Channel, Bytes)>,
    closed: &CancellationToken,
) -> std::io::Result<bool> {
    let resizer = streams.resizer();
    let Streams { stdin: fd_in, stdout, stderr, .. } = streams;
    let open = |fd: Option<std::os::fd::OwnedFd>| fd.map(FdStream::new).transpose();
    let (fd_in, stdout, stderr) = (open(fd_in)?, open(stdout)?, open(stderr)?);
    let out = async {
        let (first, second) = tokio::join!(
            copy_out(stdout, Channel::Stdout, &output),
            copy_out(stderr, Channel::Stderr, &output)
        );
        first.and(second)
    };
    let inputs = async {
        tokio::join!(copy_in(stdin, fd_in), resize_all(resize, &resizer));
        // Only the output ends a session.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = out => result.map(|()| true),
        () = inputs => Ok(true),
        () = closed.cancelled() => Ok(false),
    }
}

async fn copy_in(mut pieces: mpsc::Receiver<Bytes>, to: Option<FdStream>) {
    let Some(mut to) = to else {
        while pieces.recv().await.is_some() {}
        return;
    };
    while let Some(piece) = pieces.recv().await {
        if let Err(error) = to.write_all(&piece).await {
            tracing::debug!(%error, "the command reads no more input");
            return;
        }
    }
    // Dropping the descriptor is the command's end of input.
}

async fn resize_all(mut sizes: mpsc::Receiver<(u16, u16)>, to: &atoll_container::Resizer) {
    while let Some((columns, rows)) = sizes.recv().await {
        to.resize(columns, rows).await;
    }
}

async fn copy_out(
    from: Option<FdStream>,
    channel: Channel,
    output: &mpsc::Sender<(Channel, Bytes)>,
) -> std::io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let piece = Bytes::copy_from_slice(&buffer[..count]);
        if output.send((channel, piece)).await.is_err() {
            return Ok(());
        }
    }
}

/// `{"Width":80,"Height":24}` as clients send it.
#[must_use]
pub fn parse_size(json: &[u8]) -> Option<(u16, u16)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let side = |name: &str| value[name].as_u64().and_then(|n| u16::try_from(n).ok());
    Some((side("Width")?, side("Height")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_told_as_upstream_does() {
        assert_eq!(exit_status(0)["status"], "Success");
        let failed = exit_status(3);
        assert_eq!(failed["reason"], "NonZeroExitCode");
        assert_eq!(failed["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(parse_size(b"{}"), None);
    }
}
