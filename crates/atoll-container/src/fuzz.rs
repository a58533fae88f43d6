//! Entry points for the fuzzer: what agent and shim read of each other, also across versions.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{Reply, Request, ShimState};

/// A message to a shim, one from it, and its record on disk; what is read is written alike.
pub fn frames(bytes: &[u8]) {
    again::<Request>(bytes);
    again::<Reply>(bytes);
    again::<ShimState>(bytes);
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let text = serde_json::to_vec(&value).unwrap_or_default();
    assert!(serde_json::from_slice::<T>(&text).is_ok(), "what was read is not written alike");
}
