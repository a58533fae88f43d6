//! Sets the clock of one running process; the machine's own stays as it is.
//!
//! A static program takes no preloaded library, and a time namespace shifts monotonic clocks
//! alone. But a program asks the time of day of the vDSO, a page of code that the kernel maps
//! into every process, and lets debuggers write to for that process alone. What is written
//! there asks the kernel as before and adds an offset. A process that is started anew has the
//! right time again.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Threads stand still within this.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Room for the code at the end of the vDSO, which is empty.
const ROOM: usize = 64;
const JUMP: usize = 5;

/// Whether the code below is of this machine's kind; says so when it is not.
#[must_use]
pub fn can_be_set(test: &str) -> bool {
    let can = cfg!(target_arch = "x86_64");
    if !can {
        eprintln!("{test}: skipped, a process' clock is set on x86_64 only");
    }
    can
}

/// Lets a process read a time of day that is `seconds` off; 0 is the right one.
pub fn set(pid: i32, seconds: i64) {
    let deadline = Instant::now() + STOP_MAX;
    let vdso = Vdso::of(pid);
    let process = Pid::from_raw(pid).unwrap();
    loop {
        kill_process(process, Signal::STOP).unwrap();
        let quiet = threads(pid).iter().all(|thread| vdso.is_elsewhere(thread));
        if quiet {
            vdso.write(seconds);
        }
        kill_process(process, Signal::CONT).unwrap();
        if quiet {
            return;
        }
        assert!(Instant::now() < deadline, "the threads of {pid} do not leave the vDSO");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Vdso {
    memory: File,
    start: u64,
    /// Offsets from the start.
    function: usize,
    code: usize,
}

impl Vdso {
    fn of(pid: i32) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let memory = PathBuf::from(format!("/proc/{pid}/mem"));
        let memory = OpenOptions::new().read(true).write(true).open(memory).unwrap();
        let mut image = vec![0; usize::try_from(end - start).unwrap()];
        memory.read_exact_at(&mut image, start).unwrap();
        let code = image.len() - ROOM;
        let written = image[code] == LOAD_NUMBER;
        assert!(written || image[code..].iter().all(|byte| *byte == 0), "the vDSO has no room");
        let function = symbol(&image, b"__vdso_clock_gettime");
        Self { memory, start, function, code }
    }

    /// Whether a thread that stands still is outside of what gets written.
    fn is_elsewhere(&self, thread: &str) -> bool {
        // The last field is where it is; a thread that still runs has no fields.
        let Some(at) = thread.split_whitespace().last().and_then(|at| at.strip_prefix("0x")) else {
            return false;
        };
        let Ok(at) = u64::from_str_radix(at, 16) else { return false };
        let within = |offset: usize, length: usize| {
            let first = self.start + offset as u64;
            (first..first + length as u64).contains(&at)
        };
        !within(self.function + 1, JUMP - 1) && !within(self.code, ROOM)
    }

    fn write(&self, seconds: i64) {
        let write = |bytes: &[u8], offset: usize| {
            self.memory.write_all_at(bytes, self.start + offset as u64).unwrap();
        };
        write(&code(seconds), self.code);
        let distance =
            i32::try_from(self.code).unwrap() - i32::try_from(self.function + JUMP).unwrap();
        let mut jump = vec![0xe9];
        jump.extend(distance.to_le_bytes());
        write(&jump, self.function);
    }
}

const LOAD_NUMBER: u8 = 0xb8;

/// `clock_gettime` by the system call; to the two clocks of the time of day it adds seconds.
fn code(seconds: i64) -> Vec<u8> {
    let instructions: [&[u8]; 11] = [
        &[LOAD_NUMBER, 0xe4, 0, 0, 0], // mov eax, 228
        &[0x0f, 0x05],                 // syscall
        &[0x85, 0xc0],                 // test eax, eax
        &[0x75, 0x17],                 // jnz end
        &[0x83, 0xff, 0],              // cmp edi, CLOCK_REALTIME
        &[0x74, 0x05],                 // je add
        &[0x83, 0xff, 5],              // cmp edi, CLOCK_REALTIME_COARSE
        &[0x75, 0x0d],                 // jne end
        &[0x48, 0xb9],                 // add: mov rcx, seconds
        &seconds.to_le_bytes(),
        &[0x48, 0x01, 0x0e, 0xc3], // add [rsi], rcx; end: ret
    ];
    instructions.concat()
}

/// What the kernel says of each thread: `running`, or where it stands.
fn threads(pid: i32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    // One that has ended meanwhile is nowhere.
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("syscall")).ok()).collect()
}

/// The address of a function in an ELF file of 64 bits, from its dynamic symbols.
fn symbol(image: &[u8], name: &[u8]) -> usize {
    const DYNSYM: u64 = 11;
    let number = |at: usize, bytes: usize| -> u64 {
        image[at..at + bytes].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let place = |at: usize, bytes: usize| usize::try_from(number(at, bytes)).unwrap();
    let section = |index: usize| place(40, 8) + index * place(58, 2);
    let symbols = (0..place(60, 2)).map(section).find(|&at| number(at + 4, 4) == DYNSYM).unwrap();
    let names = place(section(place(symbols + 40, 4)) + 24, 8);
    let (first, size) = (place(symbols + 24, 8), place(symbols + 32, 8));
    let found = (first..first + size).step_by(24).find(|&at| {
        let text = &image[names + place(at, 4)..];
        text.starts_with(name) && text.get(name.len()) == Some(&0)
    });
    place(found.unwrap() + 8, 8)
}

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    /// Python asks the C library, which asks the vDSO as our program does.
    #[test]
    fn another_process_reads_another_time() {
        let script = "import time\nwhile input(): print(int(time.time()), flush=True)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stdin = child.stdin.take().unwrap();
        let mut off = || -> i64 {
            use std::io::Write as _;
            stdin.write_all(b"?\n").unwrap();
            let said: i64 = lines.next().unwrap().unwrap().parse().unwrap();
            said - jiff::Timestamp::now().as_second()
        };
        assert!(off().abs() < 5);
        let pid = i32::try_from(child.id()).unwrap();
        for seconds in [-3_600, 7_200, 0] {
            set(pid, seconds);
            assert!((off() - seconds).abs() < 5);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
