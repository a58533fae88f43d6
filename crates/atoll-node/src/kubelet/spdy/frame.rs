//! SPDY/3.1 frames: reading, writing, and the compression of headers.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::dictionary::dictionary;

pub const FLAG_FIN: u8 = 1;
const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// Longer frames are refused; clients send at most 32 KiB at once.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// Headers of one stream when uncompressed.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Names and values.
pub type Headers = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        headers: Headers,
        flags: u8,
    },
    /// Written without headers.
    SynReply {
        stream: u32,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Data {
        stream: u32,
        bytes: Bytes,
        flags: u8,
    },
    /// Settings, windows, further headers: nothing that matters here.
    Other,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}

/// Reads frames.
pub struct Reader<R> {
    io: R,
    inflate: Decompress,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Reader<R> {
        Reader { io, inflate: Decompress::new(true) }
    }

    /// `None` when the peer closed the connection between frames.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0_u8; 8];
        if self.io.read(&mut head[..1]).await? == 0 {
            return Ok(None);
        }
        self.io.read_exact(&mut head[1..]).await?;
        let word = |i: usize| u32::from_be_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
        let (first, flags, length) = (word(0), head[4], word(4) & 0x00ff_ffff);
        if length > FRAME_BYTES_MAX {
            return Err(broken("a frame is too long"));
        }
        let mut body = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.io.read_exact(&mut body).await?;
        if first & 0x8000_0000 == 0 {
            return Ok(Some(Frame::Data { stream: first, bytes: body.into(), flags }));
        }
        let kind = u16::from_be_bytes([head[2], head[3]]);
        let version = u16::from_be_bytes([head[0] & 0x7f, head[1]]);
        if version != VERSION {
            return Err(broken("another version than 3"));
        }
        self.control(kind, flags, &body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> io::Result<Frame> {
        let word = |at: usize| -> io::Result<u32> {
            let bytes = body.get(at..at + 4).ok_or_else(|| broken("a frame is too short"))?;
            Ok(u32::from_be_bytes(bytes.try_into().map_err(io::Error::other)?))
        };
        Ok(match kind {
            SYN_STREAM => {
                let compressed = body.get(10..).ok_or_else(|| broken("a frame is too short"))?;
                let headers = parse_headers(&self.inflate(compressed)?)?;
                Frame::SynStream { stream: word(0)? & 0x7fff_ffff, headers, flags }
            }
            SYN_REPLY => {
                // Read even though nobody looks: the compression goes on from here.
                let compressed = body.get(4..).ok_or_else(|| broken("a frame is too short"))?;
                self.inflate(compressed)?;
                Frame::SynReply { stream: word(0)? & 0x7fff_ffff }
            }
            RST_STREAM => Frame::Reset { stream: word(0)? & 0x7fff_ffff, status: word(4)? },
            PING => Frame::Ping { id: word(0)? },
            GOAWAY => Frame::GoAway,
            8 => {
                let compressed = body.get(4..).ok_or_else(|| broken("a frame is too short"))?;
                self.inflate(compressed)?;
                Frame::Other
            }
            _ => Frame::Other,
        })
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(1024);
        while !compressed.is_empty() {
            let before = self.inflate.total_in();
            if plain.capacity() - plain.len() < 512 {
                plain.reserve(1024);
            }
            let step = self.inflate.decompress_vec(compressed, &mut plain, FlushDecompress::Sync);
            let used =
                usize::try_from(self.inflate.total_in() - before).map_err(io::Error::other)?;
            compressed = &compressed[used..];
            match step {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
            if plain.len() > HEADER_BYTES_MAX {
                return Err(broken("headers are too long"));
            }
        }
        Ok(plain)
    }
}

/// A count, then names and values, each with its length; all numbers have four bytes.
fn parse_headers(block: &[u8]) -> io::Result<Headers> {
    let mut rest = block;
    let number = |rest: &mut &[u8]| -> io::Result<usize> {
        let (head, tail) = rest.split_at_checked(4).ok_or_else(|| broken("headers end early"))?;
        *rest = tail;
        let number = u32::from_be_bytes(head.try_into().map_err(io::Error::other)?);
        usize::try_from(number).map_err(io::Error::other)
    };
    let count = number(&mut rest)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut text = || -> io::Result<String> {
            let length = number(&mut rest)?;
            let (head, tail) =
                rest.split_at_checked(length).ok_or_else(|| broken("headers end early"))?;
            rest = tail;
            Ok(String::from_utf8_lossy(head).into_owned())
        };
        headers.push((text()?, text()?));
    }
    Ok(headers)
}

/// Writes frames.
pub struct Writer<W> {
    io: W,
    deflate: Option<Compress>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub fn new(io: W) -> Writer<W> {
        Writer { io, deflate: None }
    }

    pub async fn write(&mut self, frame: Frame) -> io::Result<()> {
        let bytes = self.encode(frame)?;
        self.io.write_all(&bytes).await?;
        self.io.flush().await
    }

    pub async fn finish(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    fn encode(&mut self, frame: Frame) -> io::Result<Bytes> {
        let mut body = BytesMut::new();
        let (kind, flags) = match frame {
            Frame::Data { stream, bytes, flags } => {
                let mut framed = BytesMut::with_capacity(bytes.len() + 8);
                framed.put_u32(stream & 0x7fff_ffff);
                put_length(&mut framed, flags, bytes.len())?;
                framed.put_slice(&bytes);
                return Ok(framed.freeze());
            }
            Frame::SynStream { stream, headers, flags } => {
                body.put_u32(stream);
                body.put_u32(0);
                body.put_u16(0);
                let block = self.deflate(&header_block(&headers)?)?;
                body.put_slice(&block);
                (SYN_STREAM, flags)
            }
            Frame::SynReply { stream } => {
                body.put_u32(stream);
                let block = self.deflate(&header_block(&Headers::new())?)?;
                body.put_slice(&block);
                (SYN_REPLY, 0)
            }
            Frame::Reset { stream, status } => {
                body.put_u32(stream);
                body.put_u32(status);
                (RST_STREAM, 0)
            }
            Frame::Ping { id } => {
                body.put_u32(id);
                (PING, 0)
            }
            Frame::GoAway => {
                body.put_u32(0);
                body.put_u32(0);
                (GOAWAY, 0)
            }
            Frame::Other => return Ok(Bytes::new()),
        };
        let mut framed = BytesMut::with_capacity(body.len() + 8);
        framed.put_u16(0x8000 | VERSION);
        framed.put_u16(kind);
        put_length(&mut framed, flags, body.len())?;
        framed.put_slice(&body);
        Ok(framed.freeze())
    }

    fn deflate(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        let deflate = match &mut self.deflate {
            Some(deflate) => deflate,
            empty => {
                let mut deflate = Compress::new(Compression::fast(), true);
                deflate.set_dictionary(&dictionary()).map_err(io::Error::other)?;
                empty.insert(deflate)
            }
        };
        let mut block = Vec::with_capacity(plain.len() + 256);
        deflate.compress_vec(plain, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
        Ok(block)
    }
}

fn put_length(to: &mut BytesMut, flags: u8, length: usize) -> io::Result<()> {
    let length = u32::try_from(length).map_err(io::Error::other)?;
    if length > FRAME_BYTES_MAX {
        return Err(broken("a frame is too long"));
    }
    to.put_u32(u32::from(flags) << 24 | length);
    Ok(())
}

fn header_block(headers: &Headers) -> io::Result<Vec<u8>> {
    let number = |n: usize| u32::try_from(n).map(u32::to_be_bytes).map_err(io::Error::other);
    let mut block = number(headers.len())?.to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend_from_slice(&number(text.len())?);
        block.extend_from_slice(text.as_bytes());
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_trip_and_headers_share_one_compression() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut writer = Writer::new(near);
        let mut reader = Reader::new(far);
        let headers = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned())];
        let frames = [
            Frame::SynStream { stream: 1, headers: headers("error"), flags: 0 },
            Frame::SynStream { stream: 3, headers: headers("data"), flags: FLAG_FIN },
            Frame::SynReply { stream: 1 },
            Frame::Data { stream: 1, bytes: Bytes::from("hello"), flags: FLAG_FIN },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 3, status: 5 },
            Frame::GoAway,
        ];
        for frame in &frames {
            writer.write(frame.clone()).await.unwrap();
        }
        drop(writer);
        for frame in frames {
            assert_eq!(reader.next().await.unwrap(), Some(frame));
        }
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn broken_input_is_an_error_and_no_panic() {
        for bytes in [
            &[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0][..],
            &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x80, 2, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
        ] {
            assert!(Reader::new(bytes).next().await.is_err(), "{bytes:?}");
        }
        assert!(parse_headers(&[0, 0, 0, 1, 0, 0, 0, 9]).is_err());
    }
}
