//! Signal numbers and the names under which images and users write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal number of this platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

/// What was written is no signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal; write a name such as SIGTERM or a number from 1 to 64")]
pub struct InvalidSignal(pub String);

const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// First and last real-time signal as programs see them (the C library keeps 32 and 33).
const REALTIME: (i32, i32) = (34, 64);

impl Signal {
    pub const KILL: Signal = Signal(libc::SIGKILL);
    pub const TERM: Signal = Signal(libc::SIGTERM);
    pub const WINCH: Signal = Signal(libc::SIGWINCH);

    /// The signal with this number, if there is one.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Signal> {
        (1..=REALTIME.1).contains(&number).then_some(Signal(number))
    }

    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = InvalidSignal;

    /// Accepts `SIGTERM`, `term`, `15` and `SIGRTMIN+3`, as image configurations write them.
    fn from_str(text: &str) -> Result<Signal, InvalidSignal> {
        let invalid = || InvalidSignal(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Signal::from_number(number).ok_or_else(invalid);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Signal(*number));
        }
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest).and_then(|n| REALTIME.0.checked_add(n))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest).and_then(|n| REALTIME.1.checked_add(n))
        } else {
            None
        };
        number.filter(|n| (REALTIME.0..=REALTIME.1).contains(n)).map(Signal).ok_or_else(invalid)
    }
}

fn offset(rest: &str) -> Option<i32> {
    if rest.is_empty() { Some(0) } else { rest.parse().ok() }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_forms_that_images_use() {
        for text in ["SIGTERM", "term", "15"] {
            assert_eq!(text.parse::<Signal>(), Ok(Signal::TERM), "{text}");
        }
        assert_eq!("SIGRTMIN+3".parse::<Signal>().unwrap().number(), 37);
        assert_eq!("RTMAX-2".parse::<Signal>().unwrap().number(), 62);
    }

    #[test]
    fn refuses_what_is_no_signal() {
        for text in ["", "SIG", "SIGFOO", "0", "65", "-9", "RTMIN+99", "RTMIN-1"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
