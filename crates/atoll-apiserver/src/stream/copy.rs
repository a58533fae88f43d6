//! Carries bytes both ways between two streams until both have ended.
//!
//! Unlike tokio's copy it delivers what was read before a side failed: a peer that is killed,
//! or closes without TLS's word for it, has often just said the last thing.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

const BUFFER_BYTES: usize = 16 * 1024;

/// Once one side has failed, the other gets this long to take what was for it.
const LINGER: Duration = Duration::from_secs(10);

/// Returns when both directions have ended; the first failure is the error.
pub(super) async fn both<A, B>(a: A, b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    both_within(LINGER, a, b).await
}

async fn both_within<A, B>(linger: Duration, a: A, b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_a, to_a) = tokio::io::split(a);
    let (from_b, to_b) = tokio::io::split(b);
    let there = std::pin::pin!(one_way(from_a, to_b));
    let back = std::pin::pin!(one_way(from_b, to_a));
    match futures::future::select(there, back).await {
        futures::future::Either::Left((ended, rest)) => finish(linger, ended, rest).await,
        futures::future::Either::Right((ended, rest)) => finish(linger, ended, rest).await,
    }
}

/// A direction that ended well leaves the other one open, as TCP does.
async fn finish(
    linger: Duration,
    ended: io::Result<()>,
    rest: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    match ended {
        Ok(()) => rest.await,
        Err(error) => {
            // Whatever becomes of the rest, this is why the stream ended.
            drop(tokio::time::timeout(linger, rest).await);
            Err(error)
        }
    }
}

/// What was read is written and flushed, and the end passed on, however the reading ends.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let ended = loop {
        match from.read(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length]).await?;
                to.flush().await?;
            }
            Err(error) => break Err(error),
        }
    };
    let passed_on = to.shutdown().await;
    ended.and(passed_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};

    /// A side that says something and is cut off.
    async fn cut_off(words: &[u8]) -> impl AsyncRead + AsyncWrite + use<> {
        let (mut far, near) = duplex(words.len());
        far.write_all(words).await.unwrap();
        drop(far);
        let (read, write) = tokio::io::split(near);
        tokio::io::join(read.chain(Broken), write)
    }

    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
            _buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    /// A client whose connection takes little at a time.
    fn slow_client() -> (DuplexStream, DuplexStream) {
        duplex(64)
    }

    #[tokio::test]
    async fn the_last_words_of_a_side_that_is_cut_off_arrive() {
        let words: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        let kubelet = cut_off(&words).await;
        let (mut client, near) = slow_client();
        let mut heard = Vec::new();
        let read = async {
            client.read_to_end(&mut heard).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (ended, ()) = tokio::join!(both(near, kubelet), read);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(heard == words, "{} of {} bytes", heard.len(), words.len());
    }

    #[tokio::test]
    async fn one_side_may_end_while_the_other_goes_on() {
        let (mut client, near) = slow_client();
        let (mut kubelet, far) = slow_client();
        let talk = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut heard = Vec::new();
            kubelet.read_to_end(&mut heard).await.unwrap();
            kubelet.write_all(b"answer").await.unwrap();
            drop(kubelet);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (heard, answer)
        };
        let (ended, (heard, answer)) = tokio::join!(both(near, far), talk);
        ended.unwrap();
        assert_eq!((heard.as_slice(), answer.as_str()), (b"question".as_slice(), "answer"));
    }

    #[tokio::test]
    async fn a_client_that_stays_silent_does_not_hold_a_dead_stream() {
        let kubelet = cut_off(b"bye").await;
        let (_client, near) = slow_client();
        let copied = both_within(Duration::from_millis(20), near, kubelet);
        let ended = tokio::time::timeout(Duration::from_secs(10), copied).await;
        assert!(ended.unwrap().is_err());
    }
}
