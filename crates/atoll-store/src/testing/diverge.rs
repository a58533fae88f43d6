//! Makes of the folder of a stopped member one of another history: what it would be had an entry of
//! the log had other content there than at the others.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::MonotonicClock;
use crate::disk::RealDisk;
use crate::embedded::{Keyspace, OpenError, StoreConfig, open_as_is, refused};

/// The last write of `key` has put `value` there, at the same revision: the record with its own
/// checksum says so, and the chain over all entries. Nothing shows it but the chain of the others.
pub fn diverge(dir: &Path, keyspace: Keyspace, key: &[u8], value: &[u8]) -> Result<(), OpenError> {
    let config = StoreConfig { dir: dir.to_owned(), ..StoreConfig::default() };
    let failed = |detail: String| refused(&dir.display().to_string(), detail.into());
    let disk = Arc::new(RealDisk::new(dir));
    let (mut core, lock) = open_as_is(disk, Arc::new(MonotonicClock::new()), config)?;
    let changed = core.falsify(keyspace.code(), key, &Bytes::copy_from_slice(value));
    changed.map_err(|fault| failed(fault.to_string()))?;
    let job = core.start_flush(true).ok_or_else(|| failed("it cannot be written".to_owned()))?;
    let written = core.state_writer().flush(&job).map_err(|error| failed(error.to_string()))?;
    core.finish_flush(Ok(written));
    core.stop();
    drop((core, lock));
    Ok(())
}
