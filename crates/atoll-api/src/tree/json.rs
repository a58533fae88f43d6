//! JSON, by serde_json's parser and a visitor that notices duplicate keys.

use std::fmt::{self, Write as _};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{DUPLICATES_MAX, DecodeError, Decoded, check_size, push_key};

/// Decodes one JSON value.
///
/// # Errors
///
/// When the input is no JSON, nests too deeply, or something follows the value.
pub fn from_json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    check_size(bytes)?;
    let mut state = State { path: String::new(), duplicates: Vec::new() };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let object = Seed(&mut state)
        .deserialize(&mut deserializer)
        .and_then(|object| deserializer.end().map(|()| object))
        .map_err(|error| failure(&error, bytes))?;
    Ok(Decoded { object, duplicates: state.duplicates })
}

fn failure(error: &serde_json::Error, bytes: &[u8]) -> DecodeError {
    if error.is_eof() && bytes.trim_ascii().is_empty() {
        return DecodeError::Empty;
    }
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    DecodeError::Json { message, line: error.line(), column: error.column() }
}

struct State {
    path: String,
    duplicates: Vec<String>,
}

struct Seed<'a>(&'a mut State);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let length = self.0.path.len();
        let mut list = Vec::new();
        loop {
            // Writing to a String cannot fail.
            write!(self.0.path, "[{}]", list.len()).ok();
            let item = items.next_element_seed(Seed(self.0))?;
            self.0.path.truncate(length);
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let length = push_key(&mut self.0.path, &key);
            if map.contains_key(&key)
                && self.0.duplicates.len() < DUPLICATES_MAX
                && !self.0.duplicates.contains(&self.0.path)
            {
                self.0.duplicates.push(self.0.path.clone());
            }
            let value = entries.next_value_seed(Seed(self.0))?;
            self.0.path.truncate(length);
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
