//! YAML, from saphyr's events to the JSON that Kubernetes' own converter would make of it.
//!
//! Aliases are expanded under a budget, so that no input multiplies without bound.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Map, Value};

use super::yaml_scalar::{key_text, resolve};
use super::{
    ALIASED_NODES_MAX, DEPTH_MAX, DUPLICATES_MAX, DecodeError, Decoded, check_size, push_key,
};

/// One document of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub decoded: Decoded,
    /// Where the document begins, counted from 1.
    pub line: usize,
}

/// Decodes the one document that a request body holds.
///
/// # Errors
///
/// When the input is no YAML, holds no or several documents, or breaks a limit.
pub fn from_yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    // JSON is YAML too, and most bodies sent as YAML are JSON.
    if bytes.trim_ascii_start().first() == Some(&b'{')
        && let Ok(decoded) = super::from_json(bytes)
    {
        return Ok(decoded);
    }
    let mut documents = documents(bytes)?;
    match documents.len() {
        0 => Err(DecodeError::Empty),
        1 => Ok(documents.remove(0).decoded),
        _ => Err(DecodeError::SeveralDocuments),
    }
}

/// Keys that stand twice in one map, and the lines of the later ones, counted from 1.
///
/// # Errors
///
/// As [`from_yaml`].
pub fn repeated_keys(bytes: &[u8]) -> Result<Vec<(usize, String)>, DecodeError> {
    let mut reader = Reader::new(text(bytes)?);
    while let Some((event, _)) = reader.next()? {
        if matches!(event, Event::DocumentStart(_)) {
            reader.document()?;
        }
    }
    Ok(reader.repeated)
}

/// Decodes all documents of a file; empty ones are left out. As kubectl has it, what begins as
/// JSON is JSON, with none of YAML's liberties.
///
/// # Errors
///
/// When the input is neither JSON nor YAML or breaks a limit.
pub fn from_yaml_all(bytes: &[u8]) -> Result<Vec<Document>, DecodeError> {
    if bytes.trim_ascii_start().starts_with(b"{") {
        let decoded = super::from_json(bytes)?;
        return Ok(vec![Document { decoded, line: 1 }]);
    }
    documents(bytes)
}

fn documents(bytes: &[u8]) -> Result<Vec<Document>, DecodeError> {
    let mut reader = Reader::new(text(bytes)?);
    let mut documents = Vec::new();
    while let Some((event, span)) = reader.next()? {
        if !matches!(event, Event::DocumentStart(_)) {
            continue;
        }
        let object = reader.document()?;
        let duplicates = std::mem::take(&mut reader.duplicates);
        if !object.is_null() {
            let decoded = Decoded { object, duplicates };
            documents.push(Document { decoded, line: span.start.line() });
        }
    }
    Ok(documents)
}

fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    check_size(bytes)?;
    std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        let message = format!("the input is not UTF-8: {error}");
        DecodeError::Yaml { message, line, path: String::new() }
    })
}

/// A value and the number of nodes in it.
type Counted = (Value, usize);

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    path: String,
    depth: usize,
    line: usize,
    duplicates: Vec<String>,
    /// Lines and keys of the duplicates.
    repeated: Vec<(usize, String)>,
    anchors: HashMap<usize, Counted>,
    aliased_nodes: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            path: String::new(),
            depth: 0,
            line: 1,
            duplicates: Vec::new(),
            repeated: Vec::new(),
            anchors: HashMap::new(),
            aliased_nodes: 0,
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, DecodeError> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some((event, span)))
            }
            Some(Err(error)) => Err(self.scan_error(&error)),
        }
    }

    fn scan_error(&self, error: &ScanError) -> DecodeError {
        DecodeError::Yaml {
            message: error.info().to_owned(),
            line: error.marker().line(),
            path: self.path.clone(),
        }
    }

    fn error(&self, message: impl Into<String>) -> DecodeError {
        DecodeError::Yaml { message: message.into(), line: self.line, path: self.path.clone() }
    }

    fn document(&mut self) -> Result<Value, DecodeError> {
        self.anchors.clear();
        let Some((event, _)) = self.next()? else { return Ok(Value::Null) };
        if matches!(event, Event::DocumentEnd) {
            return Ok(Value::Null);
        }
        Ok(self.node(event)?.0)
    }

    fn expect(&mut self) -> Result<Event<'a>, DecodeError> {
        match self.next()? {
            Some((event, _)) => Ok(event),
            None => Err(self.error("the document ends too early")),
        }
    }

    fn node(&mut self, event: Event<'a>) -> Result<Counted, DecodeError> {
        let (counted, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let value = resolve(&text, plain, core_tag(tag.as_deref()))
                    .map_err(|message| self.error(message))?;
                ((value, 1), anchor)
            }
            Event::Alias(anchor) => (self.alias(anchor)?, 0),
            Event::SequenceStart(anchor, _) => (self.nested(Self::sequence)?, anchor),
            Event::MappingStart(anchor, _) => (self.nested(Self::mapping)?, anchor),
            other => return Err(self.error(format!("unexpected {other:?}"))),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, counted.clone());
        }
        Ok(counted)
    }

    fn alias(&mut self, anchor: usize) -> Result<Counted, DecodeError> {
        let Some((_, nodes)) = self.anchors.get(&anchor) else {
            return Err(self.error("an alias of an anchor that is not complete"));
        };
        self.aliased_nodes = self.aliased_nodes.saturating_add(*nodes);
        if self.aliased_nodes > ALIASED_NODES_MAX {
            return Err(self.error("document contains excessive aliasing"));
        }
        Ok(self.anchors[&anchor].clone())
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Counted, DecodeError>,
    ) -> Result<Counted, DecodeError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.error(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        let counted = read(self)?;
        self.depth -= 1;
        Ok(counted)
    }

    fn sequence(&mut self) -> Result<Counted, DecodeError> {
        let (mut items, mut nodes) = (Vec::new(), 1);
        let length = self.path.len();
        loop {
            let event = self.expect()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok((Value::Array(items), nodes));
            }
            self.path.push_str(&format!("[{}]", items.len()));
            let (item, more) = self.node(event)?;
            self.path.truncate(length);
            nodes += more;
            items.push(item);
        }
    }

    fn mapping(&mut self) -> Result<Counted, DecodeError> {
        let (mut map, mut merged, mut nodes) = (Map::new(), Vec::new(), 1);
        loop {
            let event = self.expect()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let merge =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let (key, _) = self.node(event)?;
            let key = if merge { "<<".to_owned() } else { self.key(&key)? };
            let length = push_key(&mut self.path, &key);
            let duplicate = map.contains_key(&key) && !self.duplicates.contains(&self.path);
            if duplicate && self.duplicates.len() < DUPLICATES_MAX {
                self.duplicates.push(self.path.clone());
                self.repeated.push((self.line, key.clone()));
            }
            let event = self.expect()?;
            let (value, more) = self.node(event)?;
            nodes += more;
            if merge {
                merged.extend(self.merged(value)?);
            } else {
                map.insert(key, value);
            }
            self.path.truncate(length);
        }
        for (key, value) in merged {
            map.entry(key).or_insert(value);
        }
        Ok((Value::Object(map), nodes))
    }

    fn key(&self, key: &Value) -> Result<String, DecodeError> {
        key_text(key).ok_or_else(|| self.error("a key that is no string, number or boolean"))
    }

    /// What `<<: *defaults` or `<<: [*a, *b]` brings in; the first one named wins.
    fn merged(&self, value: Value) -> Result<Vec<(String, Value)>, DecodeError> {
        match value {
            Value::Object(map) => Ok(map.into_iter().collect()),
            Value::Array(items) if items.iter().all(Value::is_object) => Ok(items
                .into_iter()
                .filter_map(|item| match item {
                    Value::Object(map) => Some(map),
                    _ => None,
                })
                .flatten()
                .collect()),
            _ => Err(self.error("map merge requires map or sequence of maps as the value")),
        }
    }
}

fn core_tag(tag: Option<&Tag>) -> Option<&str> {
    let tag = tag?;
    (tag.is_yaml_core_schema() || tag.handle == "!!").then_some(tag.suffix.as_str())
}
