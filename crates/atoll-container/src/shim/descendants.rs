//! What a command of the process runtime leaves running, where no namespace ends it.
//!
//! The shim is the reaper of orphans, so whatever a command has started becomes its child
//! when its parents are gone.

use rustix::process::{Pid, Signal, WaitOptions};

/// Generations of orphans; more are a fork bomb that outruns us.
const ROUNDS_MAX: usize = 1000;

/// Kills and reaps every child, then those that it leaves, until there is none.
pub(crate) fn kill() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    for _ in 0..ROUNDS_MAX {
        let children = children_of(own);
        if children.is_empty() {
            return;
        }
        for pid in children.into_iter().filter_map(Pid::from_raw) {
            // One that has just ended is reaped all the same.
            if let Err(error) = rustix::process::kill_process(pid, Signal::KILL) {
                super::complain(&format!("atoll shim: killing {pid:?}: {error}"));
            }
            if let Err(error) = rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
                super::complain(&format!("atoll shim: reaping {pid:?}: {error}"));
            }
        }
    }
    super::complain("atoll shim: processes of the command are left");
}

fn children_of(parent: i32) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(Result::ok).filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| crate::file::parent_of(*pid) == Some(parent)).collect()
}
