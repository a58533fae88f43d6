//! The body of an answer: bytes that are there, or a stream of them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, SizeHint};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a client gets to read.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    /// What is let go once the client has read everything, or has gone.
    held: Vec<Held>,
}

/// Something whose only use is to be dropped.
struct Held {
    _guard: Box<dyn Send>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

#[derive(Debug)]
enum Kind {
    Once(Bytes),
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    pub fn empty() -> Self {
        Kind::Once(Bytes::new()).into()
    }

    /// The bytes, when they are all there.
    pub(crate) fn whole(&self) -> Option<&Bytes> {
        match &self.kind {
            Kind::Once(bytes) => Some(bytes),
            Kind::Stream(_) => None,
        }
    }

    /// The same body, which keeps something until it ends: a place, say.
    pub(crate) fn holding(mut self, guard: impl Send + 'static) -> Self {
        self.held.push(Held { _guard: Box::new(guard) });
        self
    }

    pub fn stream<S>(stream: S) -> Self
    where
        S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    {
        let frames = stream.map(|chunk| chunk.map(Frame::data));
        Kind::Stream(http_body_util::StreamBody::new(frames).boxed_unsync()).into()
    }

    pub fn wrap<B>(body: B) -> Self
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Kind::Stream(body.map_err(Into::into).boxed_unsync()).into()
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Self { kind, held: Vec::new() }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Kind::Once(bytes).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Kind::Once(bytes.into()).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Kind::Once(Bytes::from_static(text.as_bytes())).into()
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.kind {
            Kind::Once(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Once(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Stream(stream) => {
                let frame = std::task::ready!(Pin::new(stream).poll_frame(cx));
                if frame.is_none() {
                    self.held.clear();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Once(bytes) => bytes.is_empty(),
            Kind::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Once(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(stream) => stream.size_hint(),
        }
    }
}
