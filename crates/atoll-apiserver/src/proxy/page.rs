//! An answer on its way back: pages have their links changed, anything else passes as it is.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use futures::StreamExt as _;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use http::{StatusCode, response};
use http_body_util::{BodyDataStream, BodyExt as _};
use hyper::body::{Body as _, Incoming};

use super::html::Links;
use super::path::Way;
use crate::body::{Body, BoxError};

/// The body as the client gets it. Its length is known no more when it is a page.
pub(super) fn passed_on(head: &mut response::Parts, body: Incoming, way: &Way) -> Body {
    let coding = head.headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let way = way.clone();
    let links = Links::new(move |link: &str| way.relocate(link));
    let page = match coding {
        // A part of a page begins anywhere.
        _ if !is_page(&head.headers) || head.status == StatusCode::PARTIAL_CONTENT => None,
        None => Some(Page::Plain(Writer::new(links, Vec::new()))),
        Some(b"gzip") => {
            let encoder = GzEncoder::new(Vec::new(), Compression::fast());
            Some(Page::Gzip(Box::new(MultiGzDecoder::new(Writer::new(links, encoder)))))
        }
        Some(_) => None,
    };
    let Some(page) = page else { return Body::wrap(body) };
    forget_bytes(&mut head.headers);
    // Of a page that was only asked about there is the head alone.
    if body.is_end_stream() {
        return Body::wrap(body);
    }
    let passing = Passing { body: body.into_data_stream(), page, rest: Bytes::new() };
    Body::stream(futures::stream::try_unfold(Some(passing), piece))
}

/// What spoke of the bytes as they were says nothing of those that are sent.
fn forget_bytes(headers: &mut HeaderMap) {
    for name in ["content-length", "accept-ranges", "content-md5", "digest", "content-digest"] {
        headers.remove(name);
    }
    headers.remove("repr-digest");
    let strong = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    let weak = strong.map(|tag| [b"W/", tag.as_bytes()].concat());
    if let Some(weak) = weak.and_then(|tag| HeaderValue::from_bytes(&tag).ok()) {
        headers.insert(ETAG, weak);
    }
}

/// Bytes that are read at once: packed ones may stand for a thousand times as many.
const AT_ONCE: usize = 4 << 10;

struct Passing<F: Fn(&str) -> Option<String>> {
    body: BodyDataStream<Incoming>,
    page: Page<F>,
    /// What came and was not read yet.
    rest: Bytes,
}

/// The next piece of a page, and what is left of it.
async fn piece<F>(
    state: Option<Passing<F>>,
) -> Result<Option<(Bytes, Option<Passing<F>>)>, BoxError>
where
    F: Fn(&str) -> Option<String>,
{
    let Some(mut passing) = state else { return Ok(None) };
    loop {
        if passing.rest.is_empty() {
            match passing.body.next().await.transpose()? {
                Some(bytes) => passing.rest = bytes,
                None => return Ok(Some((passing.page.end()?, None))),
            }
        } else {
            // Others get their turn between two stretches of one page.
            tokio::task::yield_now().await;
        }
        let stretch = passing.rest.split_to(passing.rest.len().min(AT_ONCE));
        let read = passing.page.read(&stretch)?;
        if !read.is_empty() {
            return Ok(Some((read, Some(passing))));
        }
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("text/html")
}

/// A page in the coding that it came in.
enum Page<F: Fn(&str) -> Option<String>> {
    Plain(Writer<F, Vec<u8>>),
    Gzip(Box<MultiGzDecoder<Writer<F, GzEncoder<Vec<u8>>>>>),
}

impl<F: Fn(&str) -> Option<String>> Page<F> {
    fn read(&mut self, bytes: &[u8]) -> io::Result<Bytes> {
        let out = match self {
            Self::Plain(page) => {
                page.write_all(bytes)?;
                &mut page.to
            }
            Self::Gzip(page) => {
                page.write_all(bytes)?;
                // What a page says at once is seen at once.
                page.flush()?;
                page.get_mut().to.flush()?;
                page.get_mut().to.get_mut()
            }
        };
        Ok(std::mem::take(out).into())
    }

    fn end(self) -> io::Result<Bytes> {
        let out = match self {
            Self::Plain(page) => page.end()?,
            Self::Gzip(page) => page.finish()?.end()?.finish()?,
        };
        Ok(out.into())
    }
}

/// Writes pages on with other links.
struct Writer<F, W> {
    links: Links<F>,
    to: W,
    piece: Vec<u8>,
}

impl<F: Fn(&str) -> Option<String>, W: Write> Writer<F, W> {
    fn new(links: Links<F>, to: W) -> Self {
        Self { links, to, piece: Vec::new() }
    }

    fn end(mut self) -> io::Result<W> {
        self.links.end(&mut self.piece);
        self.flush()?;
        Ok(self.to)
    }
}

impl<F: Fn(&str) -> Option<String>, W: Write> Write for Writer<F, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.links.read(bytes, &mut self.piece);
        self.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_compressed_page_stays_compressed() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(b"<a href=/x>").unwrap();
        let packed = packed.finish().unwrap();
        let links = Links::new(|link: &str| Some(format!("/P{link}")));
        let encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let mut page = Page::Gzip(Box::new(MultiGzDecoder::new(Writer::new(links, encoder))));
        let mut out = Vec::new();
        for piece in packed.chunks(3) {
            out.extend(page.read(piece).unwrap());
        }
        out.extend(page.end().unwrap());
        let mut read = String::new();
        flate2::read::GzDecoder::new(out.as_slice()).read_to_string(&mut read).unwrap();
        assert_eq!(read, "<a href=/P/x>");
    }
}
