//! Decoding: bytes to object trees, with duplicate keys noticed and limits kept.
//!
//! Whether the tree fits a type is not decided here (`schema` does).

mod json;
mod yaml;
mod yaml_scalar;
mod yaml_write;

use serde_json::Value;

pub use json::from_json;
pub use yaml::{Document, from_yaml, from_yaml_all, repeated_keys};
pub use yaml_write::to_yaml;

/// Nesting of lists and objects. Deeper input is refused, as it could only be an attack on
/// whoever walks the tree by recursion.
pub const DEPTH_MAX: usize = 120;
/// Bytes of one input. Larger bodies are refused before they are parsed; the API server's
/// own limit for requests is lower.
pub const BYTES_MAX: usize = 16 << 20;
/// Duplicate keys that are reported; the rest is only dropped.
pub const DUPLICATES_MAX: usize = 100;
/// Values that aliases of one YAML input may multiply into; more is a bomb.
pub const ALIASED_NODES_MAX: usize = 100_000;

/// A decoded tree. Of duplicate keys the last one wins.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub object: Value,
    /// Paths of the keys that occurred more than once (`spec.containers[0].image`).
    pub duplicates: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{message} at line {line} column {column}")]
    Json { message: String, line: usize, column: usize },
    #[error("yaml: line {line}: {message}{}", at(path))]
    Yaml { message: String, line: usize, path: String },
    #[error("the input is {bytes} bytes long; at most {BYTES_MAX} are taken")]
    TooLarge { bytes: usize },
    #[error("unexpected end of input: there is no object")]
    Empty,
    #[error("the input holds several documents; one is expected")]
    SeveralDocuments,
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" (at {path})") }
}

fn check_size(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.len() > BYTES_MAX {
        return Err(DecodeError::TooLarge { bytes: bytes.len() });
    }
    Ok(())
}

fn push_key(path: &mut String, key: &str) -> usize {
    let length = path.len();
    if length > 0 {
        path.push('.');
    }
    path.push_str(key);
    length
}

#[cfg(test)]
mod tests;
