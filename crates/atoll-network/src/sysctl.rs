//! Settings of the kernel's network, in the namespace of the calling thread.

use std::path::{Path, PathBuf};

use crate::Error;

/// Writes `/proc/sys/net/<name>` unless it has that value already.
pub(crate) fn set(name: &str, value: &str) -> Result<(), Error> {
    let path = Path::new("/proc/sys/net").join(name);
    if read(&path).is_some_and(|old| old == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|source| Error::File { action: "setting", path, source })
}

/// As [`set`], for a setting that this kernel may not have.
pub(crate) fn set_if_there(name: &str, value: &str) -> Result<(), Error> {
    if Path::new("/proc/sys/net").join(name).exists() { set(name, value) } else { Ok(()) }
}

pub(crate) fn get(name: &str) -> Option<String> {
    read(&PathBuf::from("/proc/sys/net").join(name))
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
