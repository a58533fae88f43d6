//! The age file format, version 1: a random key for the content, wrapped by a passphrase or for
//! public keys, and the content in chunks that can be neither changed, cut, nor swapped.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};

mod bech32;
mod header;
mod keys;

pub use header::HEADER_BYTES_MAX;
pub use keys::{Identity, Recipient, generate};

/// Content of all chunks but the last.
const CHUNK_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
const SEALED_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const NONCE_BYTES: usize = 16;
const FILE_KEY_BYTES: usize = 16;

type FileKey = [u8; FILE_KEY_BYTES];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it does not begin as an encrypted file does")]
    NotEncrypted,
    #[error("its beginning is damaged: {0}")]
    Header(&'static str),
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    #[error("it is encrypted for another key")]
    OtherKey,
    #[error("it is encrypted with a passphrase, not for a key")]
    NeedsPassphrase,
    #[error("it is encrypted for a key, not with a passphrase")]
    NeedsIdentity,
    #[error(
        "its passphrase needs {} MiB to be tried, more than this program takes",
        (1_u64 << .log_n) >> 10
    )]
    TooCostly { log_n: u8 },
    #[error("it is damaged between the bytes {from} and {to}")]
    Damaged { from: u64, to: u64 },
    #[error("it was cut short")]
    Cut,
    #[error("it is damaged behind byte {from}, or was cut short")]
    End { from: u64 },
    #[error("{0}")]
    Key(&'static str),
    #[error("encryption failed")]
    Failed,
}

/// With what a file is locked.
#[derive(Debug, Clone)]
pub enum Lock {
    Passphrase(String),
    /// For the owners of these keys; none of them has to be there when it is locked.
    Recipients(Vec<Recipient>),
}

/// With what a file is opened.
#[derive(Debug, Clone)]
pub enum Key {
    Passphrase(String),
    Identities(Vec<Identity>),
}

/// Locks content as it comes.
#[derive(Debug)]
pub struct Sealer {
    chunks: Chunks,
    /// Not sealed yet: more than a chunk is never kept.
    content: Vec<u8>,
}

impl Sealer {
    /// Also returns what stands at the file's beginning.
    pub fn new(lock: &Lock) -> Result<(Self, Vec<u8>), Error> {
        let file_key: FileKey = random()?;
        let mut out = header::write(&file_key, lock)?;
        let nonce: [u8; NONCE_BYTES] = random()?;
        out.extend_from_slice(&nonce);
        let chunks = Chunks::new(&file_key, &nonce)?;
        Ok((Self { chunks, content: Vec::with_capacity(SEALED_BYTES) }, out))
    }

    pub fn push(&mut self, mut content: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !content.is_empty() {
            // The last chunk is marked, so a full one waits until something follows.
            if self.content.len() == CHUNK_BYTES {
                self.chunks.seal(&mut self.content, false, out)?;
            }
            let used = content.len().min(CHUNK_BYTES - self.content.len());
            self.content.extend_from_slice(&content[..used]);
            content = &content[used..];
        }
        Ok(())
    }

    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.chunks.seal(&mut self.content, true, out)
    }
}

/// Opens a file as it comes. What it hands out is authentic, but whether it is all of it shows
/// only at the end.
#[derive(Debug)]
pub struct Opener {
    key: Key,
    chunks: Option<Chunks>,
    /// The header, or a chunk, that is not whole yet.
    partial: Vec<u8>,
    offset: u64,
}

impl Opener {
    pub fn new(key: Key) -> Self {
        Self { key, chunks: None, partial: Vec::new(), offset: 0 }
    }

    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        while !bytes.is_empty() {
            let used = match &mut self.chunks {
                None => {
                    // A header has some hundred bytes; what follows it is looked at again.
                    let used = bytes.len().min(HEADER_BYTES_MAX);
                    self.partial.extend_from_slice(&bytes[..used]);
                    self.open_header()?;
                    used
                }
                Some(_) => {
                    let used = bytes.len().min(SEALED_BYTES + 1 - self.partial.len());
                    self.partial.extend_from_slice(&bytes[..used]);
                    used
                }
            };
            bytes = &bytes[used..];
            self.open_chunks(out)?;
        }
        Ok(())
    }

    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(chunks) = &mut self.chunks else {
            return Err(header::incomplete(&self.partial));
        };
        let bytes = self.partial.len() as u64;
        if chunks.open(&mut self.partial, true, out).is_ok() {
            return Ok(());
        }
        // A chunk that opens as one of the middle is whole; then the end is missing.
        let cut = bytes < TAG_BYTES as u64 || chunks.open(&mut self.partial, false, out).is_ok();
        if cut {
            return Err(Error::Cut);
        }
        Err(Error::End { from: self.offset })
    }

    fn open_header(&mut self) -> Result<(), Error> {
        let Some((file_key, end)) = header::read(&self.partial, &self.key)? else { return Ok(()) };
        let Some(nonce) = self.partial.get(end..end + NONCE_BYTES) else { return Ok(()) };
        self.chunks = Some(Chunks::new(&file_key, nonce)?);
        self.partial.drain(..end + NONCE_BYTES);
        self.offset = (end + NONCE_BYTES) as u64;
        Ok(())
    }

    /// A full chunk that something follows is not the last one.
    fn open_chunks(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let Some(chunks) = &mut self.chunks else { return Ok(()) };
        while self.partial.len() > SEALED_BYTES {
            let behind = self.partial.split_off(SEALED_BYTES);
            if chunks.open(&mut self.partial, false, out).is_err() {
                let to = self.offset + SEALED_BYTES as u64;
                return Err(Error::Damaged { from: self.offset, to });
            }
            self.partial = behind;
            self.offset += SEALED_BYTES as u64;
        }
        Ok(())
    }
}

/// The content's key, and how many chunks it has served.
struct Chunks {
    key: LessSafeKey,
    count: u64,
}

impl std::fmt::Debug for Chunks {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Chunks").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Chunks {
    fn new(file_key: &FileKey, nonce: &[u8]) -> Result<Self, Error> {
        let key = aead_key(&derive(file_key, nonce, b"payload")?)?;
        Ok(Self { key, count: 0 })
    }

    /// Eleven bytes of counter, and whether it is the last.
    fn nonce(&self, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.count.to_be_bytes());
        nonce[11] = u8::from(is_last);
        Nonce::assume_unique_for_key(nonce)
    }

    /// `content` is empty afterwards.
    fn seal(
        &mut self,
        content: &mut Vec<u8>,
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let nonce = self.nonce(is_last);
        self.key
            .seal_in_place_append_tag(nonce, Aad::empty(), content)
            .map_err(|_unspecified| Error::Failed)?;
        self.count += 1;
        out.extend_from_slice(content);
        content.clear();
        Ok(())
    }

    /// `sealed` stays as it is when it does not open.
    fn open(&mut self, sealed: &mut [u8], is_last: bool, out: &mut Vec<u8>) -> Result<(), Error> {
        let nonce = self.nonce(is_last);
        let mut copy = sealed.to_vec();
        let content = self
            .key
            .open_in_place(nonce, Aad::empty(), &mut copy)
            .map_err(|_unspecified| Error::Failed)?;
        // Only a file without any content has an empty chunk.
        if content.is_empty() && self.count > 0 {
            return Err(Error::Failed);
        }
        out.extend_from_slice(content);
        self.count += 1;
        Ok(())
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_unspecified| Error::Failed)?;
    Ok(bytes)
}

fn aead_key(key: &[u8; 32]) -> Result<LessSafeKey, Error> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_unspecified| Error::Failed)?;
    Ok(LessSafeKey::new(key))
}

/// HKDF-SHA-256, 32 bytes of it.
fn derive(secret: &[u8], salt: &[u8], purpose: &[u8]) -> Result<[u8; 32], Error> {
    let mut out = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out))
        .map_err(|_unspecified| Error::Failed)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
