//! Gives memory back to the system that a process has no use for.
//!
//! A burst of work (a hundred pods at once) leaves the C library's heaps full of holes that
//! it keeps for itself. Where they have grown since the last look, the pages of the holes are
//! given back, which takes a millisecond or two.
//!
//! A start runs through most of the program once, and the kernel counts what it has touched for
//! good, in pieces of 64 KiB and more. A process that has little to do lets go of all of it: a
//! file's pages are nothing to write, and what is needed again is found in the page cache.

use std::{convert::Infallible, os::unix::fs::MetadataExt as _, time::Duration};

const LOOK: Duration = Duration::from_secs(10);
/// Growth that is not worth the walk through the heaps.
const GROWTH_MIN: u64 = 1 << 20;
/// So much of the program is in use by a process that rests.
const PROGRAM_MIN: u64 = 16 << 20;
/// Processor time between two looks of a process that has little to do, in the hundredths of a
/// second that the kernel counts in: a tenth of a core. Others would fetch it all back at once.
const RESTING_TICKS: u64 = 100;

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
    let (mut own_before, mut ticks_before) = (0, ticks());
    loop {
        tokio::time::sleep(LOOK).await;
        if resident_bytes("RssAnon:") >= own_before + GROWTH_MIN {
            trim();
            own_before = resident_bytes("RssAnon:");
        }
        let ticks = ticks();
        let rests =
            ticks.saturating_sub(std::mem::replace(&mut ticks_before, ticks)) <= RESTING_TICKS;
        if rests && resident_bytes("RssFile:") >= PROGRAM_MIN {
            let_go_of_program();
        }
    }
}

/// Zero where it cannot be read: then nothing ever grows.
fn resident_bytes(what: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() << 10
}

/// Processor time of this process; zero where it cannot be read.
fn ticks() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 12th and 13th behind.
    let Some((_, numbers)) = text.rsplit_once(')') else { return 0 };
    numbers.split_whitespace().skip(11).take(2).filter_map(|one| one.parse::<u64>().ok()).sum()
}

#[allow(unsafe_code, reason = "no safe binding of it is known")]
fn trim() {
    // SAFETY: malloc_trim(3) takes no pointer and is safe to call from any thread.
    unsafe { libc::malloc_trim(0) };
}

fn let_go_of_program() {
    let Ok(program) = std::fs::metadata("/proc/self/exe") else { return };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, end) in maps.lines().filter_map(|line| unwritten(line, program.ino())) {
        let_go(start, end);
    }
}

/// The addresses of a part of the program's file that nothing ever writes to: its code, and the
/// constants at its begin. What else cannot be written now was when the process began.
fn unwritten(line: &str, program: u64) -> Option<(usize, usize)> {
    let mut fields = line.split_whitespace();
    let (addresses, may, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let inode = fields.nth(1)?;
    let is_constant = may == "r-xp" || (may == "r--p" && offset.trim_start_matches('0').is_empty());
    if !is_constant || inode.parse() != Ok(program) {
        return None;
    }
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some((address(start)?, address(end)?))
}

#[allow(unsafe_code, reason = "the safe binding is for memory of one's own")]
fn let_go(start: usize, end: usize) {
    let begin = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is a private mapping of a file that cannot be written to and was not, so
    // whoever reads or runs it finds what was there, read from the file again.
    unsafe { libc::madvise(begin, end - start, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_never_written_is_let_go() {
        let of = |line| unwritten(line, 77);
        let code = "00400000-00500000 r-xp 00100000 fe:00 77     /usr/bin/atoll";
        assert_eq!(of(code), Some((0x0040_0000, 0x0050_0000)));
        assert_eq!(of("00200000-00400000 r--p 00000000 fe:00 77 /a"), Some((0x20_0000, 0x40_0000)));
        assert_eq!(
            of("00500000-00510000 r--p 00200000 fe:00 77 /a"),
            None,
            "relocated at the start"
        );
        assert_eq!(of("00510000-00520000 rw-p 00000000 fe:00 77 /a"), None);
        assert_eq!(of("00400000-00500000 r-xp 00100000 fe:00 78 /b"), None, "another file");
        assert_eq!(of("7fff0000-7fff2000 r-xp 00000000 00:00 0 [vdso]"), None);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        // Something to let go of, and something that was written.
        let text = std::hint::black_box(vec![7_u8; 1 << 16]);
        let before = resident_bytes("RssFile:");
        assert!(before > 0 && ticks() < u64::MAX);
        let_go_of_program();
        assert!(resident_bytes("RssFile:") < before, "of {before} bytes none");
        assert!(text.iter().all(|one| *one == 7));
    }
}
