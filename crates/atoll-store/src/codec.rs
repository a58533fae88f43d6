//! The byte encoding of log entries and stored records: little-endian base-128 integers and
//! length-prefixed byte strings. Reading never copies and never trusts a length.

use bytes::Bytes;

/// The bytes do not hold what they should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed data: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

pub(crate) fn put_u64(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Zigzag, so that small negative numbers stay short.
pub(crate) fn put_i64(out: &mut Vec<u8>, number: i64) {
    put_u64(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front; slices share the original buffer.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn into_rest(self) -> Bytes {
        self.rest
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        let byte = *self.rest.first().ok_or(Malformed("a byte is missing"))?;
        self.rest = self.rest.slice(1..);
        Ok(byte)
    }

    pub(crate) fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag is neither 0 nor 1")),
        }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for (position, byte) in self.rest.iter().take(10).enumerate() {
            let shifted = u64::from(byte & 0x7f)
                .checked_shl(7 * u32::try_from(position).unwrap_or(u32::MAX))
                .ok_or(Malformed("a number is too long"))?;
            number |= shifted;
            if byte & 0x80 == 0 {
                self.rest = self.rest.slice(position + 1..);
                return Ok(number);
            }
        }
        Err(Malformed("a number does not end"))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        let raw = self.u64()?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    pub(crate) fn usize(&mut self) -> Result<usize, Malformed> {
        let number = self.u64()?;
        usize::try_from(number).map_err(|_error| Malformed("a number is too large"))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.usize()?;
        self.take(length)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.rest.len() {
            return Err(Malformed("a byte string is cut short"));
        }
        Ok(self.rest.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_strings_come_back() {
        let mut out = Vec::new();
        for number in [0, 1, 127, 128, u64::MAX] {
            put_u64(&mut out, number);
        }
        for number in [0, -1, 1, i64::MIN, i64::MAX] {
            put_i64(&mut out, number);
        }
        put_bytes(&mut out, b"key");
        let mut reader = Reader::new(Bytes::from(out));
        for number in [0, 1, 127, 128, u64::MAX] {
            assert_eq!(reader.u64(), Ok(number));
        }
        for number in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(reader.i64(), Ok(number));
        }
        assert_eq!(reader.bytes().unwrap(), "key");
        assert!(reader.is_empty());
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        let mut reader = Reader::new(Bytes::from_static(&[0xff, 0xff, 0x03, b'x']));
        assert_eq!(reader.bytes(), Err(Malformed("a byte string is cut short")));
    }
}
