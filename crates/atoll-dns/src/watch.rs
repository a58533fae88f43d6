//! Notices a new snapshot, by inotify on its folder: the file is replaced, not written.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use futures::{Stream, StreamExt};
use inotify::{Inotify, WatchMask};

/// A few events of the longest name.
const EVENT_BYTES: usize = 4_096;

/// Yields whenever the file has been replaced or written.
pub(crate) fn changes(path: &Path) -> io::Result<impl Stream<Item = io::Result<()>> + use<>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let name = path.file_name().unwrap_or(OsStr::new("")).to_owned();
    let inotify = Inotify::init()?;
    let events = WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
    inotify.watches().add(folder.unwrap_or(Path::new(".")), events)?;
    let stream = inotify.into_event_stream(vec![0; EVENT_BYTES])?;
    Ok(stream.filter_map(move |event| {
        let ours = match event {
            Ok(event) if event.name.as_deref() == Some(name.as_os_str()) => Some(Ok(())),
            // After an overflow nobody knows which files it was about.
            Ok(event) if event.name.is_none() => Some(Ok(())),
            Ok(_other_file) => None,
            Err(error) => Some(Err(error)),
        };
        std::future::ready(ours)
    }))
}
