//! Every target on its corpus and on seeded mutations of it, for about a second each.
//!
//! A panic, an input that takes long, or one that takes much memory fails the test and is
//! written to a file. `ATOLL_FUZZ_SEED`, `ATOLL_FUZZ_MILLIS` and `ATOLL_FUZZ_TARGET` choose
//! the mutations, the time, and one target.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atoll_fuzz::{Target, corpus, targets};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

#[path = "mutations/mutate.rs"]
mod mutate;

use mutate::mutate;

/// Nothing longer is tried: most limits of the product lie above, so this finds what is out of
/// proportion rather than what is large.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Processor time of one input in an unoptimised build.
const INPUT_MILLIS_MAX: u128 = 1500;
/// Allocated at one time for one input. A tree of JSON or YAML takes some hundred bytes for
/// each of its shortest values.
const INPUT_ALLOCATED_MAX: usize = 48 << 20;
/// Somebody waits: no input comes to an end after this.
const HANG_AFTER: Duration = Duration::from_secs(30);
const DEFAULT_SEED: u64 = 1;
const DEFAULT_MILLIS: u64 = 700;

/// Counts what is allocated at a time, and the most since it was reset.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static TRYING: AtomicBool = AtomicBool::new(false);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[allow(unsafe_code, reason = "an allocator is unsafe to write; this one only counts")]
// SAFETY: every call is handed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What is being tried, for the one who watches for hangs.
struct Watched {
    started: Instant,
    target: &'static str,
    input: Vec<u8>,
}

type Watch = Arc<Mutex<Option<Watched>>>;

struct Runner {
    watch: Watch,
    failures: Vec<String>,
}

#[test]
fn no_input_panics_hangs_or_takes_memory_out_of_proportion() {
    let seed = setting("ATOLL_FUZZ_SEED").unwrap_or(DEFAULT_SEED);
    let time = Duration::from_millis(setting("ATOLL_FUZZ_MILLIS").unwrap_or(DEFAULT_MILLIS));
    let only = variable("ATOLL_FUZZ_TARGET");
    let watch = Watch::default();
    start_watching(watch.clone());
    let mut runner = Runner { watch, failures: Vec::new() };
    // A target's panic is reported once, with its input.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !TRYING.load(Ordering::Relaxed) {
            report(panic);
        }
    }));
    for target in targets() {
        if only.as_ref().is_none_or(|only| only == target.name) {
            let count = runner.run(&target, seed, time);
            say(&format!("{:<18} {count} inputs", target.name));
        }
    }
    drop(std::panic::take_hook());
    assert!(runner.failures.is_empty(), "seed {seed}:\n{}", runner.failures.join("\n"));
}

impl Runner {
    /// The corpus, then mutations until the time is over.
    fn run(&mut self, target: &Target, seed: u64, time: Duration) -> usize {
        let inputs = corpus(target).expect("the corpus is readable");
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        let mut random = StdRng::seed_from_u64(seed);
        let mut count = 0;
        for input in &inputs {
            count += 1;
            if !self.try_one(target, input) {
                return count;
            }
        }
        let end = Instant::now() + time;
        while Instant::now() < end {
            let (Some(input), Some(other)) =
                (inputs.choose(&mut random), inputs.choose(&mut random))
            else {
                return count;
            };
            let mut input = input.clone();
            for _ in 0..random.random_range(1..6) {
                mutate(&mut random, &mut input, other);
            }
            input.truncate(INPUT_BYTES_MAX);
            count += 1;
            if !self.try_one(target, &input) {
                return count;
            }
        }
        count
    }

    fn try_one(&mut self, target: &Target, input: &[u8]) -> bool {
        let mut problem = self.problem_of(target, input);
        // A loaded machine may be slow once; memory and panics repeat anyway.
        if problem.is_some() {
            problem = self.problem_of(target, input);
        }
        let Some(problem) = problem else { return true };
        let file = keep(target.name, input);
        self.failures.push(format!(
            "{}: {problem}; the input of {} bytes is in {}",
            target.name,
            input.len(),
            file.display()
        ));
        false
    }

    fn problem_of(&self, target: &Target, input: &[u8]) -> Option<String> {
        let watched =
            Watched { started: Instant::now(), target: target.name, input: input.to_vec() };
        *self.watch.lock().expect("no panic holds it") = Some(watched);
        let before = ALLOCATED.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let start = processor_time();
        TRYING.store(true, Ordering::Relaxed);
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        TRYING.store(false, Ordering::Relaxed);
        let taken = processor_time().saturating_sub(start).as_millis();
        let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
        *self.watch.lock().expect("no panic holds it") = None;
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            return Some(format!("panic: {}", text.unwrap_or("without a text")));
        }
        if taken > INPUT_MILLIS_MAX {
            return Some(format!("{taken} ms of processor time"));
        }
        (peak > allocated_max(target)).then(|| format!("{} KiB allocated at a time", peak >> 10))
    }
}

/// Copies of a JSON patch may add 3 MiB of text, as upstream has it; a tree of that size takes up
/// to a hundred times as much, as one that a body of that size brings.
fn allocated_max(target: &Target) -> usize {
    if target.name == "json_patch" { 640 << 20 } else { INPUT_ALLOCATED_MAX }
}

/// A hang cannot be unwound: the process ends, with the input kept.
fn start_watching(watch: Watch) {
    std::thread::spawn(move || {
        loop {
            std::thread::park_timeout(Duration::from_secs(1));
            let current = watch.lock().expect("no panic holds it");
            if let Some(watched) = &*current
                && watched.started.elapsed() > HANG_AFTER
            {
                let file = keep(watched.target, &watched.input);
                say(&format!("{}: hangs; the input is in {}", watched.target, file.display()));
                std::process::abort();
            }
        }
    });
}

fn keep(target: &str, input: &[u8]) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("atoll-fuzz-{target}-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, input).expect("the input can be kept");
    path
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn setting(name: &str) -> Option<u64> {
    variable(name).map(|text| text.parse().expect("a number"))
}

#[allow(clippy::disallowed_methods, reason = "the settings of a test come from its environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[allow(clippy::print_stdout, reason = "the report of a test")]
fn say(line: &str) {
    println!("{line}");
}
