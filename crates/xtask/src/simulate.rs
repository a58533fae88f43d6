//! Runs the store's simulation over as many seeds as one likes, of one member and of several, and
//! keeps the totals, so that the next call goes on where this one ended.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

const TOTALS: &str = "simulation-totals";
/// Seeds after which the totals are written.
const STRETCH: u64 = 100;
/// What is simulated with each seed, and how its totals are called.
const KINDS: [(&str, &str); 2] = [("cluster", "members"), ("single", "single")];

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
    // Once: what is changed meanwhile is for the next call.
    let program = build()?;
    let end = from + seeds;
    while from < end {
        let count = STRETCH.min(end - from);
        for (kind, name) in KINDS {
            stretch(&program, (kind, name), (from, count), &mut totals)?;
        }
        from += count;
        totals.insert("next".to_owned(), from);
        *totals.entry("seeds".to_owned()).or_default() += count;
        write_totals(&totals)?;
        eprintln!("{} seeds in all without a violation; next is {from}", totals["seeds"]);
    }
    for (name, count) in &totals {
        eprintln!("{name:>24} {count}");
    }
    Ok(())
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

fn build() -> Result<PathBuf> {
    let built = Command::new("cargo")
        .args(["build", "--release", "-q", "-p", "atoll-store", "--example", "simulate"])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("building the simulation")?;
    ensure!(built.status.success(), "the simulation does not build");
    let messages = String::from_utf8(built.stdout).context("what cargo says")?;
    let program = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "simulate")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    // A copy, so that another build does not take it away while it runs.
    let copy = target().join("simulate-running");
    fs::copy(program.context("cargo names no program of the simulation")?, &copy)
        .context("copying the simulation")?;
    Ok(copy)
}

/// Each seed prints `SEED: Report { name: count, … }`.
fn stretch(
    program: &PathBuf,
    (kind, name): (&str, &str),
    (from, count): (u64, u64),
    totals: &mut BTreeMap<String, u64>,
) -> Result<()> {
    let mut child = Command::new(program)
        .args([kind, &count.to_string(), &from.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the simulation")?;
    let out = child.stdout.take().context("the simulation's output")?;
    for line in BufReader::new(out).lines() {
        let line = line.context("reading the simulation's output")?;
        let report = line.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches([' ', '}']));
        for (what, count) in report.split(',').filter_map(|part| part.split_once(':')) {
            let count: u64 = count.trim().parse().context("a count of the simulation")?;
            *totals.entry(format!("{name}.{}", what.trim())).or_default() += count;
        }
    }
    let status = child.wait().context("waiting for the simulation")?;
    ensure!(
        status.success(),
        "a violation in the {count} seeds from {from} ({kind}); its plan is above, and `cargo run \
         --release -p atoll-store --example simulate -- {kind} 1 SEED` repeats it"
    );
    Ok(())
}

fn read_totals() -> Result<BTreeMap<String, u64>> {
    let path = target().join(TOTALS);
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(path).context("reading the totals")?;
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| Ok((name.to_owned(), count.parse().context("a total")?)))
        .collect()
}

fn write_totals(totals: &BTreeMap<String, u64>) -> Result<()> {
    let lines: Vec<_> = totals.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    let folder = target();
    fs::create_dir_all(&folder).context("making the folder of the totals")?;
    let temporary = folder.join(format!("{TOTALS}.tmp"));
    fs::write(&temporary, lines.concat()).context("writing the totals")?;
    fs::rename(temporary, folder.join(TOTALS)).context("naming the totals")
}
