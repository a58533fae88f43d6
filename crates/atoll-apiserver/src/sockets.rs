//! Sockets whose other end may be gone, or take nothing any more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long a connection may be silent before the other end is asked whether it is there.
const SILENT_FOR: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
/// Questions without an answer, after which the connection is over.
const ASK_MAX: u32 = 3;
/// How long bytes may wait for the other end's word that they came.
const UNHEARD_MAX: Duration = Duration::from_secs(60);
/// How long a client may take nothing of what is for it: a watcher that reads no more.
const STUCK_MAX: Duration = Duration::from_secs(60);

/// Lets the kernel find out when the other end has gone without a word.
pub(crate) fn watch_over(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(SILENT_FOR).with_interval(ASK_EVERY).with_retries(ASK_MAX);
    let set = socket
        .set_tcp_keepalive(&keepalive)
        .and_then(|()| socket.set_tcp_user_timeout(Some(UNHEARD_MAX)));
    if let Err(error) = set {
        tracing::debug!(%error, "no keepalive on a connection");
    }
}

/// A connection that ends when its client takes nothing for too long.
pub(crate) struct Unstuck<I> {
    inner: I,
    stuck: Option<Pin<Box<Sleep>>>,
    stuck_max: Duration,
}

impl<I> Unstuck<I> {
    pub(crate) fn new(inner: I) -> Self {
        Self { inner, stuck: None, stuck_max: STUCK_MAX }
    }

    /// Fails when writing has been waiting for too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let stuck_max = self.stuck_max;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep(stuck_max)));
        ready!(stuck.as_mut().poll(cx));
        let text = "the client takes nothing of what is for it";
        tracing::info!("a connection was ended: {text}");
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, text))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Unstuck<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Unstuck<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Ready(written) => {
                self.stuck = None;
                Poll::Ready(written)
            }
            Poll::Pending => self.wait(cx).map(Err),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.inner).poll_write_vectored(cx, slices) {
            Poll::Ready(written) => {
                self.stuck = None;
                Poll::Ready(written)
            }
            Poll::Pending => self.wait(cx).map(Err),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_flush(cx) {
            Poll::Ready(flushed) => {
                self.stuck = None;
                Poll::Ready(flushed)
            }
            Poll::Pending => self.wait(cx).map(Err),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_left() {
        let (near, _far) = tokio::io::duplex(16);
        let mut stream = Unstuck::new(near);
        stream.stuck_max = Duration::from_millis(50);
        let error = stream.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
