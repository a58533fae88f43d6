//! Signals to processes that are not our children, safe against reused pids.

use std::io;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags};

use crate::error::Error;
use crate::file::is_alive;
use crate::signal::Signal;

fn failed(pid: i32, source: io::Error) -> Error {
    Error::Io { what: "signalling", path: PathBuf::from(format!("/proc/{pid}")), source }
}

/// Signals one process; one that is gone is no error.
#[allow(unsafe_code, reason = "real-time signals have no name to convert from")]
pub(crate) fn process(pid: i32, ticks: u64, signal: Signal) -> Result<(), Error> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let pidfd = match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        // Older kernels say so of one that has gone while others are in the group that it led.
        Err(rustix::io::Errno::INVAL) if !is_alive(pid, ticks) => return Ok(()),
        Err(error) => return Err(failed(pid, error.into())),
    };
    // The descriptor now stands for one process; this says whether it is the right one.
    if !is_alive(pid, ticks) {
        return Ok(());
    }
    // SAFETY: `Signal` holds only 1 to 64, and the signal goes to another process.
    let signal = unsafe { rustix::process::Signal::from_raw_unchecked(signal.number()) };
    match rustix::process::pidfd_send_signal(&pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(failed(pid, error.into())),
    }
}

/// Signals the process group that the process leads.
#[allow(unsafe_code, reason = "real-time signals have no name to convert from")]
pub(crate) fn group(pid: i32, ticks: u64, signal: Signal) -> Result<(), Error> {
    if !is_alive(pid, ticks) {
        return Ok(());
    }
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    // SAFETY: `Signal` holds only 1 to 64, and the signal goes to other processes.
    let signal = unsafe { rustix::process::Signal::from_raw_unchecked(signal.number()) };
    match rustix::process::kill_process_group(number, signal) {
        Ok(()) => Ok(()),
        // Not its own group leader yet (it waits for its start): the process alone.
        Err(rustix::io::Errno::SRCH) => match rustix::process::kill_process(number, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(failed(pid, error.into())),
        },
        Err(error) => Err(failed(pid, error.into())),
    }
}
