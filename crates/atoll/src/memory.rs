//! Gives freed memory back to the system.
//!
//! A burst of work (a hundred pods at once) leaves the C library's heaps full of holes that
//! it keeps for itself. Where resident memory has grown since the last look, the pages of
//! the holes are given back, which takes a millisecond or two.

use std::{convert::Infallible, time::Duration};

const LOOK: Duration = Duration::from_secs(10);
/// Growth that is not worth the walk through the heaps.
const GROWTH_MIN: u64 = 1 << 20;

/// The C library makes a heap for each of many threads, and each keeps its own holes: as
/// many as there are workers do. Called before there are threads.
pub fn limit_heaps(workers: usize) {
    set_heaps_max(i32::try_from(workers.max(2)).unwrap_or(2));
}

#[allow(unsafe_code, reason = "no safe binding of it is known")]
fn set_heaps_max(count: i32) {
    // SAFETY: mallopt(3) takes no pointer; no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, count) };
}

/// Runs for ever.
pub async fn give_back() -> Infallible {
    let mut before = resident_bytes();
    loop {
        tokio::time::sleep(LOOK).await;
        if resident_bytes() < before + GROWTH_MIN {
            continue;
        }
        trim();
        before = resident_bytes();
    }
}

/// Zero where it cannot be read: then nothing ever grows.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() << 10
}

#[allow(unsafe_code, reason = "no safe binding of it is known")]
fn trim() {
    // SAFETY: malloc_trim(3) takes no pointer and is safe to call from any thread.
    unsafe { libc::malloc_trim(0) };
}
