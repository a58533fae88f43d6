//! Measures a whole cluster of the real program, against the bars that it has set itself.
//!
//! `cargo xtask bench [NAME…] [--runs N]` builds the release program and runs this. Each
//! figure is the median of its runs, with the least and the greatest beside it: these
//! machines are noisy. It needs root, and kubectl.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a measuring tool, not part of the product"
)]

mod api;
mod density;
mod figure;
mod idle;
mod load;
mod processes;
mod start;

use figure::Figure;

/// One thing that is measured, so many times.
struct Bench {
    name: &'static str,
    run: fn(runs: usize) -> Vec<Figure>,
}

const BENCHES: &[Bench] = &[
    Bench { name: "start", run: start::run },
    Bench { name: "idle", run: idle::run },
    Bench { name: "apply", run: start::apply },
    Bench { name: "node-kill", run: load::node_kill },
    Bench { name: "rolling", run: load::rolling },
    Bench { name: "density", run: density::run },
    Bench { name: "api", run: api::run },
    Bench { name: "watches", run: api::watches::run },
];

const RUNS: usize = 5;

fn main() {
    let mut runs = RUNS;
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // `cargo bench` adds it.
            "--bench" => {}
            "--runs" => runs = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(RUNS),
            _ => names.push(argument),
        }
    }
    if let Some(unknown) = names.iter().find(|name| BENCHES.iter().all(|one| one.name != **name)) {
        let known: Vec<&str> = BENCHES.iter().map(|bench| bench.name).collect();
        println!("no benchmark is called {unknown}; there are {}", known.join(", "));
        std::process::exit(2);
    }
    println!("| what | median | least to greatest | bar |\n|---|---|---|---|");
    for bench in BENCHES {
        if names.is_empty() || names.iter().any(|name| name == bench.name) {
            for figure in (bench.run)(runs) {
                println!("{figure}");
            }
        }
    }
}
