//! The messages of a call that takes many: JSON texts, one after the other.

use bytes::{Buf as _, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use prost_reflect::MessageDescriptor;
use tonic::Status;
use tonic::body::Body;

use super::{frames, json};

pub(super) fn stream(body: Incoming, kind: MessageDescriptor, message_bytes_max: usize) -> Body {
    let texts = Texts { max: json::bytes_max(message_bytes_max), ..Texts::default() };
    let state = Some((body, texts));
    let messages = futures::stream::unfold(state, move |state| {
        let kind = kind.clone();
        async move {
            let (mut body, mut texts) = state?;
            let text = match texts.read(&mut body).await {
                Ok(text) => text?,
                Err(refused) => return Some((Err(refused), None)),
            };
            match json::message(text.freeze(), kind).await {
                Ok(message) => {
                    Some((Ok(Frame::data(frames::framed(&message))), Some((body, texts))))
                }
                Err(refused) => Some((Err(refused), None)),
            }
        }
    });
    Body::new(StreamBody::new(messages))
}

/// What has come of texts that are objects.
#[derive(Default)]
struct Texts {
    max: usize,
    come: BytesMut,
    /// How much of it has been looked at, and what it was.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Texts {
    /// `None` at the end of the body.
    async fn read(&mut self, body: &mut Incoming) -> Result<Option<BytesMut>, Status> {
        loop {
            if let Some(text) = self.next()? {
                return Ok(Some(text));
            }
            if self.come.len() > self.max {
                let max = self.max;
                return Err(Status::invalid_argument(format!("a text of more than {max} bytes")));
            }
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(part) = frame.data_ref() {
                        self.come.extend_from_slice(part);
                    }
                }
                Some(Err(error)) => return Err(Status::cancelled(error.to_string())),
                None => return self.rest(),
            }
        }
    }

    /// The next object that is whole.
    fn next(&mut self) -> Result<Option<BytesMut>, Status> {
        while let Some(byte) = self.come.get(self.seen).copied() {
            if self.depth == 0 && byte.is_ascii_whitespace() {
                self.come.advance(self.seen + 1);
                self.seen = 0;
                continue;
            }
            if self.depth == 0 && byte != b'{' {
                return Err(Status::invalid_argument("a text that is no object"));
            }
            self.seen += 1;
            if self.ends(byte) {
                return Ok(Some(self.come.split_to(std::mem::take(&mut self.seen))));
            }
        }
        Ok(None)
    }

    /// Whether an object ends with this byte.
    fn ends(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }

    fn rest(&self) -> Result<Option<BytesMut>, Status> {
        if self.come.is_empty() {
            return Ok(None);
        }
        Err(Status::invalid_argument("the body ends within a text"))
    }
}

/// Looks for texts in whatever it is given.
pub(super) fn fuzz(bytes: &[u8]) {
    let mut texts = Texts::default();
    for part in bytes.chunks(7) {
        texts.come.extend_from_slice(part);
        while let Ok(Some(text)) = texts.next() {
            assert!(text.starts_with(b"{"), "{text:?}");
        }
    }
    drop(texts.rest());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_however_they_are_cut() {
        let all = br#" {"a":"}{\"\\"} {"b":[{"c":1}]}
            {}"#;
        let expected = [r#"{"a":"}{\"\\"}"#, r#"{"b":[{"c":1}]}"#, "{}"];
        for cut in 1..=all.len() {
            let (mut texts, mut out) = (Texts::default(), Vec::new());
            for part in all.chunks(cut) {
                texts.come.extend_from_slice(part);
                while let Some(text) = texts.next().unwrap() {
                    out.push(String::from_utf8(text.to_vec()).unwrap());
                }
            }
            assert_eq!(out, expected, "cut at {cut}");
            assert!(texts.rest().unwrap().is_none());
        }
        let mut texts = Texts::default();
        texts.come.extend_from_slice(b" [");
        assert!(texts.next().is_err());
        let mut texts = Texts::default();
        texts.come.extend_from_slice(b"{\"a");
        assert!(texts.next().unwrap().is_none() && texts.rest().is_err());
    }
}
