//! How a person ends `atoll dev`: Ctrl-C, `kill`, or a terminal that is closed.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None` under nohup, which asks to be spared.
    hangup: Option<Signal>,
}

impl Signals {
    /// From here on none of them ends this process by itself.
    pub fn watch() -> Result<Self> {
        let hangup = (!ignores_hangup())
            .then(|| signal(SignalKind::hangup()).context("watching for SIGHUP"))
            .transpose()?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("watching for SIGINT")?,
            terminate: signal(SignalKind::terminate()).context("watching for SIGTERM")?,
            hangup,
        })
    }

    /// The next of them. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored(&status, rustix::process::Signal::HUP.as_raw())
}

/// Reads `SigIgn` of `/proc/<pid>/status`: a bit for each signal, the first for signal 1.
fn ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    mask.checked_shr(signal.unsigned_abs().saturating_sub(1)).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_seen() {
        assert!(ignored("Name:\tatoll\nSigIgn:\t0000000000001001\n", 1));
        assert!(!ignored("Name:\tatoll\nSigIgn:\t0000000000001000\n", 1));
        assert!(!ignored("", 1));
    }
}
