//! The layout of netlink messages: headers, attributes, nesting, padding to 4 bytes.

use super::NetlinkError;

const HEADER: usize = 16;
const NESTED: u16 = 1 << 15;
/// An attribute's length is 16 bits wide, its own header included.
const ATTRIBUTE_MAX: usize = 65_535 - 4;

/// One or more messages, to be sent by one system call.
#[derive(Debug, Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// Where the message being written begins.
    start: usize,
    count: u32,
    too_long: Option<usize>,
}

impl Message {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Begins a message.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, header: &[u8]) -> &mut Self {
        self.finish();
        self.start = self.bytes.len();
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | 1).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        self.pad();
        self.count += 1;
        self
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        if value.len() > ATTRIBUTE_MAX {
            self.too_long = Some(value.len());
            return self;
        }
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Host byte order, as rtnetlink has it.
    pub(crate) fn ne32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Network byte order, as nf_tables has it.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(crate) fn be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        let length = self.bytes.len() - at;
        if length > ATTRIBUTE_MAX {
            self.too_long = Some(length);
        }
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes[at + 2..at + 4].copy_from_slice(&(kind | NESTED).to_ne_bytes());
        self
    }

    /// Bytes that are no attribute, such as the header inside a veth's peer.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Sets further flags on the message being written.
    pub(crate) fn flag(&mut self, flags: u16) {
        let at = self.start + 6;
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            let old = u16::from_ne_bytes([field[0], field[1]]);
            field.copy_from_slice(&(old | flags).to_ne_bytes());
        }
    }

    /// The number of messages so far.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The finished bytes, the messages numbered from `sequence` on.
    pub(crate) fn encode(&mut self, sequence: u32) -> Result<&[u8], NetlinkError> {
        self.finish();
        if let Some(bytes) = self.too_long {
            return Err(NetlinkError::TooLong { bytes });
        }
        let mut number = sequence;
        let mut rest = self.bytes.as_mut_slice();
        while let Some(length) = ne_u32(rest, 0).and_then(|length| usize::try_from(length).ok()) {
            let Some((message, further)) = rest.split_at_mut_checked(length) else { break };
            if let Some(field) = message.get_mut(8..12) {
                field.copy_from_slice(&number.to_ne_bytes());
            }
            number = number.wrapping_add(1);
            rest = further;
        }
        Ok(&self.bytes)
    }

    fn finish(&mut self) {
        if self.bytes.len() < self.start + HEADER {
            return;
        }
        let length = u32::try_from(self.bytes.len() - self.start).unwrap_or(u32::MAX);
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A message from the kernel.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Splits what one receive call got.
pub(crate) fn messages(
    mut bytes: &[u8],
) -> impl Iterator<Item = Result<Received<'_>, NetlinkError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let Some(length) = ne_u32(bytes, 0).and_then(|length| usize::try_from(length).ok()) else {
            bytes = &[];
            return Some(Err(NetlinkError::Truncated));
        };
        if length < HEADER || length > bytes.len() {
            bytes = &[];
            return Some(Err(NetlinkError::Truncated));
        }
        let (message, _) = bytes.split_at(length);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok(Received {
            kind: u16::from_ne_bytes([message[4], message[5]]),
            flags: u16::from_ne_bytes([message[6], message[7]]),
            sequence: ne_u32(message, 8).unwrap_or(0),
            body: &message[HEADER..],
        }))
    })
}

/// Reads attributes; a malformed tail ends the iteration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(crate) fn after(body: &'a [u8], header: usize) -> Self {
        Self(body.get(header..).unwrap_or(&[]))
    }

    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find_map(|(found, value)| (found == kind).then_some(value))
    }

    pub(crate) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or(&[]))
    }

    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(&value[..end]).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.0.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

pub(crate) fn ne_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new();
        message.begin(7, 0, &[1, 2, 3]).text(1, "eth0").nest(2, |inner| {
            inner.ne32(3, 9).be32(4, 9);
        });
        message.begin(8, 4, &[]);
        let bytes = message.encode(u32::MAX).unwrap().to_vec();
        let all: Vec<_> = messages(&bytes).map(Result::unwrap).collect();
        assert_eq!(
            all.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(),
            [(7, u32::MAX), (8, 0)]
        );
        let attributes = Attributes::after(all[0].body, 4);
        assert_eq!(attributes.text(1), Some("eth0"));
        assert_eq!(attributes.nested(2).get(3).and_then(|v| ne_u32(v, 0)), Some(9));
        assert_eq!(attributes.nested(2).get(4).map(<[u8]>::to_vec), Some(vec![0, 0, 0, 9]));
    }

    #[test]
    fn an_oversized_list_is_refused_not_cut() {
        let mut message = Message::new();
        message.begin(1, 0, &[]).attribute(1, &vec![0; 70_000]);
        assert!(matches!(message.encode(0), Err(NetlinkError::TooLong { bytes: 70_000 })));
    }

    #[test]
    fn garbage_from_the_kernel_is_an_error_not_a_panic() {
        for bytes in [&[1u8, 0][..], &[255, 255, 255, 255, 0, 0], &[4, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(messages(bytes).next().unwrap().is_err());
        }
        assert_eq!(Attributes(&[3, 0, 1, 0, 9]).next(), None);
    }
}
