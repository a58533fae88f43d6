//! SHA-256 while bytes pass by.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// `sha256:<hex>` of bytes at hand.
pub(crate) fn of(bytes: &[u8]) -> String {
    name(Sha256::digest(bytes).as_slice())
}

fn name(hash: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(7 + hash.len() * 2);
    text.push_str("sha256:");
    for byte in hash {
        // Writing into a string cannot fail.
        if write!(text, "{byte:02x}").is_err() {
            break;
        }
    }
    text
}

/// The digits after `sha256:`.
pub(crate) fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// A running hash.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> String {
        name(self.0.finalize().as_slice())
    }
}

/// Hashes and counts all that is read through it, and ends with an error at a limit.
pub(crate) struct HashingReader<R> {
    inner: R,
    hasher: Hasher,
    left: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R, bytes_max: u64) -> HashingReader<R> {
        HashingReader { inner, hasher: Hasher::default(), left: bytes_max }
    }

    /// Reads what is left, so that the hash covers the whole stream: archives may end
    /// with padding that their readers leave.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

/// What the reader says at its limit.
pub(crate) const TOO_LARGE: &str = "it unpacks to more than the limit allows";

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(length as u64)
            .ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, TOO_LARGE))?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn the_hash_covers_what_nobody_read() {
        let mut reader = HashingReader::new(&b"abc"[..], 3);
        let mut first = [0u8; 1];
        assert_eq!(reader.read(&mut first).unwrap(), 1);
        assert_eq!(reader.finish().unwrap(), ABC);
        assert_eq!(of(b"abc"), ABC);
    }

    #[test]
    fn a_stream_over_the_limit_is_an_error() {
        let error = HashingReader::new(&b"abcd"[..], 3).finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
