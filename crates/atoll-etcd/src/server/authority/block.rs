//! The authority of a header block (RFC 7541), found without a table of headers: it is a literal
//! where it comes first.

use std::ops::Range;

use bytes::Bytes;
use httlib_huffman::DecoderSpeed;
use http::uri::Authority;

/// `:authority` in the static table (RFC 7541, appendix A).
const AUTHORITY_INDEX: usize = 1;

/// The header block (RFC 7541, 6) with another authority, where its own is none.
pub(super) fn mend(block: &[u8]) -> Option<Vec<u8>> {
    let value = authority(block)?;
    let mut fields = Fields { block, at: value.start };
    let text = fields.text()?;
    if text.is_empty() || Authority::from_maybe_shared(Bytes::from(text.clone())).is_ok() {
        return None;
    }
    let mut mended = block[..value.start].to_vec();
    put_length(&mut mended, text.len());
    mended.resize(mended.len() + text.len(), b'x');
    mended.extend_from_slice(&block[value.end..]);
    Some(mended)
}

/// Where the value of a literal `:authority` is in a header block.
fn authority(block: &[u8]) -> Option<Range<usize>> {
    let mut fields = Fields { block, at: 0 };
    loop {
        let first = *block.get(fields.at)?;
        if first & 0x80 != 0 {
            fields.integer(7)?;
            continue;
        }
        if first & 0xe0 == 0x20 {
            fields.integer(5)?;
            continue;
        }
        let name = fields.integer(if first & 0x40 == 0 { 4 } else { 6 })?;
        if name == 0 {
            fields.string()?;
        }
        let start = fields.at;
        fields.string()?;
        if name == AUTHORITY_INDEX {
            return Some(start..fields.at);
        }
    }
}

/// A string's length in the form without Huffman code (RFC 7541, 5.1).
pub(super) fn put_length(block: &mut Vec<u8>, length: usize) {
    const PREFIX: u8 = 0x7f;
    let low = |value: usize| value.to_le_bytes()[0];
    let Some(mut rest) = length.checked_sub(usize::from(PREFIX)) else {
        block.push(low(length));
        return;
    };
    block.push(PREFIX);
    while rest >= 0x80 {
        block.push(low(rest) | 0x80);
        rest >>= 7;
    }
    block.push(low(rest));
}

/// Reads a header block. `None` is: cut off, or malformed; h2 says so.
struct Fields<'a> {
    block: &'a [u8],
    at: usize,
}

impl Fields<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn integer(&mut self, prefix_bits: u32) -> Option<usize> {
        let prefix = (1_usize << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & prefix;
        if value < prefix {
            return Some(value);
        }
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Where a string is, and whether in Huffman code.
    fn string(&mut self) -> Option<(Range<usize>, bool)> {
        let coded = self.block.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let end = self.at.checked_add(length).filter(|end| *end <= self.block.len())?;
        let start = std::mem::replace(&mut self.at, end);
        Some((start..end, coded))
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let (place, coded) = self.string()?;
        let bytes = self.block.get(place)?;
        if !coded {
            return Some(bytes.to_vec());
        }
        let mut text = Vec::new();
        httlib_huffman::decode(bytes, &mut text, DecoderSpeed::FourBits).ok()?;
        Some(text)
    }
}
