//! Runs the simulation over many seeds: `cargo run -p atoll-store --example simulate -- 10000 [FIRST]`.
//!
//! Each seed runs with a power cut, a kill, a failing operation and a full disk at places drawn
//! from it. The first violation ends it with its plan. With `cluster` or `brief` in front of the
//! numbers it is several members over a network, for longer or shorter; with `single` it is one, and
//! each seed is told.
#![allow(clippy::print_stdout, reason = "a program for people")]

use atoll_store::disk::Crash;
use atoll_store::simulation::cluster::{self, ClusterPlan};
use atoll_store::simulation::{Fault, Plan, Report, run};

const STEPS: usize = 80;

fn main() -> Result<(), String> {
    let mut arguments: Vec<_> = std::env::args().skip(1).collect();
    let make = match arguments.first().map(String::as_str) {
        Some("cluster") => Some(ClusterPlan::of as fn(u64) -> ClusterPlan),
        Some("brief") => Some(ClusterPlan::brief as fn(u64) -> ClusterPlan),
        _ => None,
    };
    let tells = arguments.first().map(String::as_str) == Some("single");
    if make.is_some() || tells {
        arguments.remove(0);
    }
    let mut arguments = arguments.into_iter().map(|text| text.parse::<u64>());
    let number = |argument: Option<Result<u64, _>>, default| match argument {
        Some(parsed) => parsed.map_err(|error: std::num::ParseIntError| error.to_string()),
        None => Ok(default),
    };
    let count = number(arguments.next(), 1000)?;
    let first = number(arguments.next(), 0)?;
    if let Some(make) = make {
        return clusters(make, first, count);
    }
    let mut restarts = 0;
    for seed in first..first + count {
        let report = all_faults(seed)?;
        restarts += report.restarts;
        if tells {
            println!("{seed}: {report:?}");
        }
    }
    if !tells {
        println!("{count} seeds from {first}, {restarts} restarts, no violation");
    }
    Ok(())
}

fn all_faults(seed: u64) -> Result<Report, String> {
    let mut sum = check(Plan { seed, steps: STEPS, fault: Fault::None })?;
    let place = 1 + seed.wrapping_mul(2_654_435_761) % sum.disk_operations;
    for fault in [
        Fault::CrashAt(place, Crash::PowerLoss),
        Fault::CrashAt(place, Crash::PowerLossAll),
        Fault::CrashAt(place, Crash::Kill),
        Fault::FailAt(place),
        Fault::FullAt { step: 20, spare_blocks: usize::try_from(seed % 100).unwrap_or(0) },
        Fault::DamageAt(5 + usize::try_from(seed % 30).unwrap_or(0)),
    ] {
        let report = check(Plan { seed, steps: STEPS, fault })?;
        sum.disk_operations += report.disk_operations;
        sum.acknowledged += report.acknowledged;
        sum.refused += report.refused;
        sum.unknown += report.unknown;
        sum.restarts += report.restarts;
    }
    Ok(sum)
}

fn check(plan: Plan) -> Result<Report, String> {
    run(plan).map_err(|violation| format!("{plan:?}: {violation}"))
}

fn clusters(make: fn(u64) -> ClusterPlan, first: u64, count: u64) -> Result<(), String> {
    for seed in first..first + count {
        let plan = make(seed);
        let report = cluster::run(plan).map_err(|violation| format!("{plan:?}: {violation}"))?;
        println!("{seed}: {report:?}");
    }
    Ok(())
}
