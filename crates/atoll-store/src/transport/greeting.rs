//! How a connection begins: each side says who it is and what it speaks, or why it refuses.
//!
//! The form stays what it is in all releases, because it is how releases find out about each
//! other: magic, version of this form (u8), kind (u8), length (u16), body, crc32c over all of it
//! (u32). A later release may add to the end of a body; what is not known is not read.
//!
//! The called side speaks first, then the calling side, then the called side again: so what either
//! side checks was made after it had spoken itself, and a peer cannot be taken for an old copy of
//! its folder because of what it acknowledged in between on another connection.

use std::io;

use bytes::{Buf as _, BufMut as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::cluster::{Hello, Refusal};
use crate::consensus::Position;

const MAGIC: [u8; 6] = *b"ATPEER";
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 10;
const CRC_BYTES: usize = 4;
/// A body is never longer; one that says so is refused before it is read.
const BODY_BYTES_MAX: usize = 4 << 10;
/// Texts in a refusal are cut here.
const TEXT_BYTES_MAX: usize = 1 << 10;
/// A release's name in a hello is cut here.
const RELEASE_BYTES_MAX: usize = 64;

const HELLO: u8 = 1;
const REFUSAL: u8 = 2;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Messages,
    Snapshot,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Greeting {
    Hello { purpose: Purpose, hello: Hello },
    Refusal(Refusal),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum GreetingError {
    #[error("it does not speak the peer protocol of Atoll")]
    Magic,
    #[error("it greets in the form {version}, this server knows {VERSION}; update the older one")]
    Version { version: u8 },
    #[error("it sent a greeting of {bytes} bytes; the limit is {BODY_BYTES_MAX}")]
    TooLong { bytes: usize },
    #[error("it sent a greeting whose checksum is wrong")]
    Checksum,
    #[error("it sent a greeting that cannot be read")]
    Malformed,
    #[error("it closed the connection before it greeted")]
    Closed,
    #[error("{}", super::tls::explain(.0))]
    Read(io::Error),
}

pub(super) fn encode(greeting: &Greeting) -> Vec<u8> {
    let mut body = Vec::with_capacity(128);
    let kind = match greeting {
        Greeting::Hello { purpose, hello } => {
            put_hello(&mut body, *purpose, hello);
            HELLO
        }
        Greeting::Refusal(refusal) => {
            put_refusal(&mut body, refusal);
            REFUSAL
        }
    };
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len() + CRC_BYTES);
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind);
    out.put_u16_le(u16::try_from(body.len()).unwrap_or(u16::MAX));
    out.put_slice(&body);
    out.put_u32_le(crc32c::crc32c(&out));
    out
}

fn put_hello(body: &mut Vec<u8>, purpose: Purpose, hello: &Hello) {
    body.put_u8(match purpose {
        Purpose::Messages => 1,
        Purpose::Snapshot => 2,
    });
    body.put_u32_le(hello.format);
    body.put_u32_le(hello.level);
    body.put_slice(&hello.cluster_id);
    for number in [
        hello.from,
        hello.to,
        hello.epoch,
        hello.last.index,
        hello.last.term,
        hello.acknowledged.0,
        hello.acknowledged.1,
    ] {
        body.put_u64_le(number);
    }
    put_text(body, &hello.release[..hello.release.floor_char_boundary(RELEASE_BYTES_MAX)]);
}

/// A code, three numbers and two texts; those that a code does not use are zero. The first text of
/// a code without texts is its meaning in words, for a release that does not know the code.
pub(super) fn put_refusal(body: &mut Vec<u8>, refusal: &Refusal) {
    let (code, numbers, texts) = match refusal {
        Refusal::Format { theirs, ours } => (1, [u64::from(*theirs), u64::from(*ours), 0], None),
        Refusal::OtherCluster { theirs, ours } => (2, [0; 3], Some((theirs, ours.as_str()))),
        Refusal::OtherMember { claimed } => (3, [*claimed, 0, 0], None),
        Refusal::NotAddressed { id } => (4, [*id, 0, 0], None),
        Refusal::Removed { id } => (5, [*id, 0, 0], None),
        Refusal::Unknown { id } => (6, [*id, 0, 0], None),
        Refusal::OldCopy { id, acknowledged, last } => (7, [*id, *acknowledged, *last], None),
        Refusal::Level { theirs, cluster } => {
            (9, [u64::from(*theirs), u64::from(*cluster), 0], None)
        }
        Refusal::Other(text) => (8, [0; 3], Some((text, ""))),
    };
    let meaning = refusal.to_string();
    let (first, second) = texts.unwrap_or((&meaning, ""));
    body.put_u8(code);
    numbers.iter().for_each(|number| body.put_u64_le(*number));
    put_text(body, first);
    put_text(body, second);
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
    body.put_u16_le(u16::try_from(text.len()).unwrap_or(u16::MAX));
    body.put_slice(text.as_bytes());
}

/// The length of the body, from the head.
fn body_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, GreetingError> {
    if head[..6] != MAGIC {
        return Err(GreetingError::Magic);
    }
    if head[6] != VERSION {
        return Err(GreetingError::Version { version: head[6] });
    }
    let bytes = usize::from(u16::from_le_bytes([head[8], head[9]]));
    if bytes > BODY_BYTES_MAX {
        return Err(GreetingError::TooLong { bytes });
    }
    Ok(bytes)
}

fn decode_body(head: &[u8; HEAD_BYTES], rest: &[u8]) -> Result<Greeting, GreetingError> {
    let Some((body, sum)) = rest.split_last_chunk::<CRC_BYTES>() else {
        return Err(GreetingError::Malformed);
    };
    if crc32c::crc32c_append(crc32c::crc32c(head), body) != u32::from_le_bytes(*sum) {
        return Err(GreetingError::Checksum);
    }
    let read = match head[7] {
        HELLO => read_hello(body),
        REFUSAL => read_refusal(body).map(Greeting::Refusal),
        _ => None,
    };
    read.ok_or(GreetingError::Malformed)
}

/// A greeting that lies in memory whole.
pub(super) fn decode(bytes: &[u8]) -> Result<Greeting, GreetingError> {
    let (head, rest) = bytes.split_first_chunk().ok_or(GreetingError::Malformed)?;
    let wanted = body_bytes(head)? + CRC_BYTES;
    decode_body(head, rest.get(..wanted).ok_or(GreetingError::Malformed)?)
}

fn read_hello(mut body: &[u8]) -> Option<Greeting> {
    let purpose = match body.try_get_u8().ok()? {
        1 => Purpose::Messages,
        2 => Purpose::Snapshot,
        _ => return None,
    };
    let format = body.try_get_u32_le().ok()?;
    let level = body.try_get_u32_le().ok()?;
    let mut cluster_id = [0; 16];
    body.try_copy_to_slice(&mut cluster_id).ok()?;
    let mut number = || body.try_get_u64_le().ok();
    let hello = Hello {
        format,
        level,
        cluster_id,
        from: number()?,
        to: number()?,
        epoch: number()?,
        last: Position { index: number()?, term: number()? },
        acknowledged: (number()?, number()?),
        // The release before said none.
        release: if body.is_empty() { String::new() } else { read_text(&mut body)? },
    };
    Some(Greeting::Hello { purpose, hello })
}

pub(super) fn read_refusal(mut body: &[u8]) -> Option<Refusal> {
    let code = body.try_get_u8().ok()?;
    let mut numbers = [0; 3];
    for number in &mut numbers {
        *number = body.try_get_u64_le().ok()?;
    }
    let (first, second) = (read_text(&mut body)?, read_text(&mut body)?);
    let [id, acknowledged, last] = numbers;
    Some(match code {
        1 => Refusal::Format {
            theirs: u32::try_from(id).ok()?,
            ours: u32::try_from(acknowledged).ok()?,
        },
        2 => Refusal::OtherCluster { theirs: first, ours: second },
        3 => Refusal::OtherMember { claimed: id },
        4 => Refusal::NotAddressed { id },
        5 => Refusal::Removed { id },
        6 => Refusal::Unknown { id },
        7 => Refusal::OldCopy { id, acknowledged, last },
        9 => Refusal::Level {
            theirs: u32::try_from(id).ok()?,
            cluster: u32::try_from(acknowledged).ok()?,
        },
        _ => Refusal::Other(first),
    })
}

/// Shown to people as it is, so it holds no control characters.
fn read_text(body: &mut &[u8]) -> Option<String> {
    let bytes = usize::from(body.try_get_u16_le().ok()?);
    if bytes > TEXT_BYTES_MAX {
        return None;
    }
    let (text, rest) = body.split_at_checked(bytes)?;
    *body = rest;
    let text = std::str::from_utf8(text).ok()?;
    Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// Reads not one byte more than the greeting.
pub(super) async fn read<R>(source: &mut R) -> Result<Greeting, GreetingError>
where
    R: AsyncRead + Unpin,
{
    let mut head = [0; HEAD_BYTES];
    read_exact(source, &mut head).await?;
    let mut rest = vec![0; body_bytes(&head)? + CRC_BYTES];
    read_exact(source, &mut rest).await?;
    decode_body(&head, &rest)
}

async fn read_exact<R>(source: &mut R, into: &mut [u8]) -> Result<(), GreetingError>
where
    R: AsyncRead + Unpin,
{
    match source.read_exact(into).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(GreetingError::Closed),
        Err(error) => Err(GreetingError::Read(error)),
    }
}

pub(super) async fn write<W>(sink: &mut W, greeting: &Greeting) -> Result<(), GreetingError>
where
    W: AsyncWrite + Unpin,
{
    sink.write_all(&encode(greeting)).await.map_err(GreetingError::Read)?;
    sink.flush().await.map_err(GreetingError::Read)
}

#[cfg(test)]
mod tests;
