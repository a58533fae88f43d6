//! The keys that a server knows, in memory and in the key file.
//!
//! A key that was dropped from the file is kept in memory until the server ends: what others
//! read of the near past may still be sealed with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Save;
use super::envelope::{self, EnvelopeError, ID_LENGTH, SecretKey};

/// Keys of one file. Two while a rotation is under way; more would be a mistake.
const KEYS_MAX: usize = 16;

/// The key file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    /// What is sealed with; empty seals nothing.
    primary: String,
    keys: Vec<FileKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    id: String,
    key: String,
}

/// What is known at one moment.
#[derive(Debug, Clone, Default)]
struct Keys {
    primary: String,
    in_file: BTreeMap<String, SecretKey>,
    dropped: BTreeMap<String, SecretKey>,
}

pub(crate) struct Ring {
    keys: ArcSwap<Keys>,
    /// One change of the file at a time.
    writing: Mutex<()>,
    save: Arc<Save>,
}

impl Ring {
    /// An empty text is a server that has no keys yet.
    pub(crate) fn read(text: &str, save: Arc<Save>) -> Result<Self, String> {
        let keys = if text.is_empty() { Keys::default() } else { parse(text)? };
        Ok(Self { keys: ArcSwap::from_pointee(keys), writing: Mutex::new(()), save })
    }

    /// The text of a file with one new key.
    pub(crate) fn fresh() -> Result<String, String> {
        let (id, key) = new_key()?;
        let keys = Keys { primary: id.clone(), in_file: [(id, key)].into(), ..Keys::default() };
        print(&keys)
    }

    /// The id of the key that is sealed with; empty when nothing is.
    pub(crate) fn primary(&self) -> String {
        self.keys.load().primary.clone()
    }

    /// Ids of the keys in the file.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.keys.load().in_file.keys().cloned().collect()
    }

    pub(crate) fn get(&self, id: &str) -> Option<SecretKey> {
        let keys = self.keys.load();
        keys.in_file.get(id).or_else(|| keys.dropped.get(id)).cloned()
    }

    /// Seals with the primary key; without one the value stays as it is.
    pub(crate) fn seal(&self, place: &[u8], value: Bytes) -> Result<Bytes, EnvelopeError> {
        let keys = self.keys.load();
        match keys.in_file.get(&keys.primary) {
            Some(key) => envelope::seal(key, &keys.primary, place, &value).map(Bytes::from),
            None => Ok(value),
        }
    }

    /// Opens a sealed value; one that is not sealed stays as it is.
    pub(crate) fn open(&self, place: &[u8], value: Bytes) -> Result<Bytes, EnvelopeError> {
        if !envelope::is_sealed(&value) {
            return Ok(value);
        }
        let id = envelope::key_id(&value).ok_or(EnvelopeError::Forged)?;
        let key = self.get(id).ok_or_else(|| EnvelopeError::UnknownKey { id: id.to_owned() })?;
        envelope::open(&key, place, &value).map(Bytes::from)
    }

    pub(crate) fn add(&self, id: &str, key: SecretKey) -> Result<(), String> {
        self.change(|keys| {
            keys.in_file.insert(id.to_owned(), key);
        })
    }

    /// From now on everything is sealed with this key, which must be known.
    pub(crate) fn promote(&self, id: &str) -> Result<(), String> {
        self.change(|keys| id.clone_into(&mut keys.primary))
    }

    /// Drops all keys but this one from the file.
    pub(crate) fn keep_only(&self, id: &str) -> Result<(), String> {
        self.change(|keys| {
            let all = std::mem::take(&mut keys.in_file);
            for (own, key) in all {
                if own == id {
                    keys.in_file.insert(own, key);
                } else {
                    keys.dropped.insert(own, key);
                }
            }
        })
    }

    /// On disk first, so that nothing is ever sealed with a key that could be lost.
    fn change(&self, change: impl FnOnce(&mut Keys)) -> Result<(), String> {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = (**self.keys.load()).clone();
        change(&mut keys);
        if !keys.primary.is_empty() && !keys.in_file.contains_key(&keys.primary) {
            return Err(format!("the key {} is not known", keys.primary));
        }
        (self.save)(&print(&keys)?)?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

/// A new key and its id, which says nothing of it.
pub(crate) fn new_key() -> Result<(String, SecretKey), String> {
    let random = SecretKey::random().map_err(|error| error.to_string())?;
    let mut id: String = random.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    id.truncate(ID_LENGTH);
    let key = SecretKey::random().map_err(|error| error.to_string())?;
    Ok((id, key))
}

fn is_id(id: &str) -> bool {
    id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Never shows the text that it could not read: it is secret.
fn parse(text: &str) -> Result<Keys, String> {
    let file: File = serde_json::from_str(text)
        .map_err(|error| format!("line {}: not a key file", error.line()))?;
    if file.version != 1 {
        return Err(format!("its version {} is of a later release", file.version));
    }
    if file.keys.len() > KEYS_MAX {
        return Err(format!("it has more than {KEYS_MAX} keys"));
    }
    let mut keys = Keys { primary: file.primary, ..Keys::default() };
    for one in file.keys {
        let bytes = STANDARD.decode(&one.key).ok();
        let key = bytes.as_deref().and_then(SecretKey::from_bytes);
        match key.filter(|_| is_id(&one.id)) {
            Some(key) => keys.in_file.insert(one.id, key),
            None => return Err("one of its keys is not 32 bytes with an id".to_owned()),
        };
    }
    if !keys.primary.is_empty() && !keys.in_file.contains_key(&keys.primary) {
        return Err("the key that it seals with is not in it".to_owned());
    }
    Ok(keys)
}

fn print(keys: &Keys) -> Result<String, String> {
    let all = keys.in_file.iter();
    let file = File {
        version: 1,
        primary: keys.primary.clone(),
        keys: all
            .map(|(id, key)| FileKey { id: id.clone(), key: STANDARD.encode(key.bytes()) })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&file).map_err(|error| error.to_string())?;
    text.push('\n');
    Ok(text)
}

/// For the fuzz target: reads a key file.
pub fn check_file(text: &str) -> bool {
    parse(text).is_ok()
}
