//! libcontainer's last words.
//!
//! Its errors are flattened on their way between processes ("failed to prepare rootfs");
//! the cause is only logged. In the helper, errors go to the shim's log file, and from
//! there into the reason that the user sees.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

const MARK: &str = "libcontainer: ";

/// Writes errors to a copy of standard error: the number 2 itself becomes the command's.
struct Words {
    file: fs::File,
}

/// Sends this process's error events to its standard error file.
pub(super) fn listen() {
    let copy: OwnedFd = match rustix::io::fcntl_dupfd_cloexec(std::io::stderr().as_fd(), 3) {
        Ok(copy) => copy,
        Err(error) => return super::complain(&format!("atoll shim: {error}")),
    };
    let words = Words { file: fs::File::from(copy) };
    if tracing::subscriber::set_global_default(words).is_err() {
        super::complain("atoll shim: there is a subscriber already");
    }
}

/// The first error in the log: later ones only pass it on.
pub(super) fn cause(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    text.lines().find_map(|line| line.strip_prefix(MARK)).map(str::to_owned)
}

#[derive(Default)]
struct Line {
    text: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.text, "{value:?} ")
        } else {
            write!(self.text, "{}={value:?} ", field.name())
        };
        if written.is_err() {
            self.text.push('?');
        }
    }
}

impl Subscriber for Words {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        if writeln!(&self.file, "{MARK}{}", line.text.trim()).is_err() {
            super::complain("atoll shim: its log cannot be written");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
