//! `cargo xtask history`: histories of real clusters, for as long as one likes, and their totals.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a tool for the command line, which ends at what is wrong"
)]

use atoll_e2e::{
    cluster,
    history::{Fault, Options, Plan, Report, Totals, Under, run},
};
use std::{path::PathBuf, process::exit, time::Duration};

const USAGE: &str = "\
usage: cargo xtask history [--operations N] [--faults KIND,…] [--kills N [--kill-two]]
           [--slow-disk follower|leader [--rounds N]] [--servers 3|5] [--clients N] [--think-ms N]
           [--seed S] [--totals FILE] [--binary FILE] [--piece-seconds N]
           [--fault-ms MIN-MAX] [--planted-bug]

It needs root. Without --kills and --slow-disk there are faults of all kinds.";

struct Arguments {
    options: Options,
    totals: PathBuf,
    kills: Option<u64>,
    with_another: bool,
    under: Option<Under>,
    rounds: u64,
    operations: u64,
    kinds: Vec<Fault>,
    fault_ms: (u64, u64),
}

fn main() {
    let arguments = parse(std::env::args().skip(1)).unwrap_or_else(|problem| {
        eprintln!("{problem}\n\n{USAGE}");
        exit(2);
    });
    let options = options(&arguments);
    let (seed, program) = (options.seed, options.program.display());
    eprintln!("seed {seed}, {} servers of {program}, {:?}", options.servers, options.plan);
    let label = label(&options);
    let report = run(&options, |report| eprintln!("{report}"));
    let mut totals = Totals::read(&arguments.totals);
    totals.add(&report, seed, &label);
    totals.write(&arguments.totals);
    eprintln!("{report}\n{totals}");
    report_violations(&report, seed);
}

fn report_violations(report: &Report, seed: u64) {
    if report.violations.is_empty() {
        return;
    }
    eprintln!("seed {seed}: {} violations", report.violations.len());
    for violation in report.violations.iter().take(10) {
        let cut: String = violation.chars().take(4000).collect();
        eprintln!("- {cut}");
    }
    exit(1);
}

/// Pauses of builds and clusters that differ are not mixed.
fn label(options: &Options) -> String {
    let is_release = options.program.components().any(|part| part.as_os_str() == "release");
    let build = if is_release { "release" } else { "debug" };
    let two = matches!(options.plan, Plan::Kills { with_another: true, .. });
    let killed = if two { "the leader and another" } else { "the leader" };
    format!("{} servers, {build}, {killed} killed", options.servers)
}

fn options(arguments: &Arguments) -> Options {
    let plan = match (arguments.kills, arguments.under) {
        (Some(count), _) => Plan::Kills { count, with_another: arguments.with_another },
        (None, Some(under)) => Plan::SlowDisk { under, rounds: arguments.rounds },
        (None, None) => Plan::Faults {
            kinds: arguments.kinds.clone(),
            operations: arguments.operations,
            ms_min: arguments.fault_ms.0,
            ms_max: arguments.fault_ms.1,
        },
    };
    Options { plan, ..arguments.options.clone() }
}

fn defaults() -> Arguments {
    let release = cluster::workspace()
        .join("target")
        .join(format!("{}-unknown-linux-gnu/release/atoll", std::env::consts::ARCH));
    let program = if release.exists() { release } else { cluster::binary() };
    let options = Options {
        seed: rand::random(),
        servers: 3,
        clients: 16,
        think_ms: 2,
        program,
        plan: Plan::SlowDisk { under: Under::Follower, rounds: 0 },
        piece: Duration::from_secs(30),
        is_lying: false,
        with_leases: true,
    };
    Arguments {
        options,
        totals: cluster::workspace().join("target/history/totals.json"),
        kills: None,
        with_another: false,
        under: None,
        rounds: 5,
        operations: 100_000,
        kinds: Fault::ALL.to_vec(),
        fault_ms: (1000, 5000),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = defaults();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--kill-two" => arguments.with_another = true,
            "--planted-bug" => arguments.options.is_lying = true,
            _ => {
                let value = words.next().ok_or(format!("{word} needs a value"))?;
                set(&mut arguments, &word, &value)?;
            }
        }
    }
    Ok(arguments)
}

fn set(arguments: &mut Arguments, flag: &str, value: &str) -> Result<(), String> {
    let options = &mut arguments.options;
    match flag {
        "--operations" => arguments.operations = number(value)?,
        "--kills" => arguments.kills = Some(number(value)?),
        "--rounds" => arguments.rounds = number(value)?,
        "--seed" => options.seed = number(value)?,
        "--clients" => options.clients = number(value)?,
        "--think-ms" => options.think_ms = number(value)?,
        "--piece-seconds" => options.piece = Duration::from_secs(number(value)?),
        "--servers" => options.servers = usize::try_from(number(value)?).unwrap(),
        "--totals" => arguments.totals = value.into(),
        "--binary" => options.program = value.into(),
        "--fault-ms" => {
            let (min, max) = value.split_once('-').ok_or("--fault-ms takes MIN-MAX")?;
            arguments.fault_ms = (number(min)?, number(max)?);
        }
        "--slow-disk" => {
            arguments.under = Some(match value {
                "follower" => Under::Follower,
                "leader" => Under::Leader,
                _ => return Err("--slow-disk takes follower or leader".to_owned()),
            });
        }
        "--faults" => arguments.kinds = value.split(',').map(fault).collect::<Result<_, _>>()?,
        _ => return Err(format!("{flag} is unknown")),
    }
    if options.servers < 3 {
        return Err("there have to be three servers or more".to_owned());
    }
    Ok(())
}

fn number(text: &str) -> Result<u64, String> {
    text.replace('_', "").parse().map_err(|error| format!("{text:?} is no number: {error}"))
}

fn fault(name: &str) -> Result<Fault, String> {
    let known = || Fault::ALL.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
    let found = Fault::ALL.iter().copied().find(|fault| fault.name() == name);
    found.ok_or_else(|| format!("{name:?} is no fault; there are {}", known()))
}
