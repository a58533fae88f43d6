//! Standard output, in one place: a reader that goes away ends the command quietly.

use std::io::{self, Write as _};

/// Writes `text` as it is.
pub fn write(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        quit();
    }
}

pub fn line(text: &str) {
    write(&format!("{text}\n"));
}

pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        quit();
    }
}

#[allow(clippy::print_stderr, reason = "remarks go to standard error, so that output can be piped")]
pub fn remark(text: &str) {
    eprintln!("{text}");
}

#[allow(clippy::exit, reason = "the reader of our output is gone: there is nobody to tell")]
fn quit() -> ! {
    std::process::exit(0)
}
