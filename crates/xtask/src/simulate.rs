//! Runs the store's simulation of several members over as many seeds as one likes, and keeps the
//! totals, so that the next call goes on where this one ended.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

const TOTALS: &str = "target/simulation-totals";
/// Seeds after which the totals are written.
const STRETCH: u64 = 200;

/// `--seeds N` (1,000 without it), `--from S` (where the last call ended without it).
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let mut totals = read_totals()?;
    let mut seeds = 1000;
    let mut from = totals.get("next").copied().unwrap_or(0);
    for pair in arguments.chunks(2) {
        match pair {
            ["--seeds", count] => seeds = count.parse().context("the number of seeds")?,
            ["--from", first] => from = first.parse().context("the first seed")?,
            _ => bail!("usage: cargo xtask simulate [--seeds N] [--from S]"),
        }
    }
    let end = from + seeds;
    while from < end {
        let count = STRETCH.min(end - from);
        stretch(from, count, &mut totals)?;
        from += count;
        totals.insert("next".to_owned(), from);
        *totals.entry("seeds".to_owned()).or_default() += count;
        write_totals(&totals)?;
        eprintln!("{} seeds in all without a violation; next is {from}", totals["seeds"]);
    }
    for (name, count) in &totals {
        eprintln!("{name:>16} {count}");
    }
    Ok(())
}

/// Each seed prints `SEED: ClusterReport { name: count, … }`.
fn stretch(from: u64, count: u64, totals: &mut BTreeMap<String, u64>) -> Result<()> {
    let numbers = [count.to_string(), from.to_string()];
    let mut child = Command::new("cargo")
        .args(["run", "--release", "-q", "-p", "atoll-store", "--example", "simulate", "--"])
        .arg("cluster")
        .args(numbers)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the simulation")?;
    let out = child.stdout.take().context("the simulation's output")?;
    for line in BufReader::new(out).lines() {
        let line = line.context("reading the simulation's output")?;
        let report = line.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches([' ', '}']));
        for (name, count) in report.split(',').filter_map(|part| part.split_once(':')) {
            let count: u64 = count.trim().parse().context("a count of the simulation")?;
            *totals.entry(name.trim().to_owned()).or_default() += count;
        }
    }
    let status = child.wait().context("waiting for the simulation")?;
    ensure!(status.success(), "a violation in the {count} seeds from {from}; it is above");
    Ok(())
}

fn read_totals() -> Result<BTreeMap<String, u64>> {
    if !Path::new(TOTALS).exists() {
        return Ok(BTreeMap::new());
    }
    let text = std::fs::read_to_string(TOTALS).context("reading the totals")?;
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| Ok((name.to_owned(), count.parse().context("a total")?)))
        .collect()
}

fn write_totals(totals: &BTreeMap<String, u64>) -> Result<()> {
    let lines: Vec<_> = totals.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    let temporary = format!("{TOTALS}.tmp");
    std::fs::write(&temporary, lines.concat()).context("writing the totals")?;
    std::fs::rename(temporary, TOTALS).context("naming the totals")
}
