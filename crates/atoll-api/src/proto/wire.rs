//! Protobuf's wire format: varints, lengths, and nothing of schemas.

use super::ProtoError;

/// A field's value as it is on the wire.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn error(&self, what: &'static str) -> ProtoError {
        ProtoError::Malformed { what, at: self.at }
    }

    /// The next field, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, ProtoError> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number > 0);
        let number = number.ok_or_else(|| self.error("illegal tag"))?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(self.error("illegal wire type")),
        };
        Ok(Some((number, value)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.bytes.get(self.at).copied() else {
                return Err(self.error("unexpected EOF"));
            };
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.error("integer overflow"))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtoError> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..length) else { return Err(self.error("unexpected EOF")) };
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtoError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self, reader: &Reader<'_>) -> Result<&'a [u8], ProtoError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(reader.error("wrong wire type")),
        }
    }

    pub(super) fn text(self, reader: &Reader<'_>) -> Result<&'a str, ProtoError> {
        let text = std::str::from_utf8(self.bytes(reader)?).ok();
        text.ok_or_else(|| reader.error("invalid UTF-8"))
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

pub(super) fn put_key(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    put_varint(out, u64::from(number << 3 | wire_type));
}

pub(super) fn put_int(out: &mut Vec<u8>, number: u32, value: i64) {
    put_key(out, number, 0);
    put_varint(out, value.cast_unsigned());
}

pub(super) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_key(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Begins a message of which the length is not known yet; gives where it begins.
pub(super) fn start_message(out: &mut Vec<u8>, number: u32) -> usize {
    put_key(out, number, 2);
    out.push(0);
    out.len()
}

/// Ends a message: one byte stands ready for its length, which most messages need no more than.
pub(super) fn end_message(out: &mut Vec<u8>, start: usize) {
    let length = out.len() - start;
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out[start - 1] = short,
        _ => {
            let mut varint = Vec::with_capacity(5);
            put_varint(&mut varint, length as u64);
            out.splice(start - 1..start, varint);
        }
    }
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_key(out, number, 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}
