//! What a run counted, and the totals of all runs.

use atoll_history::{Outcome, Window};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

/// What happened in a run.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub operations: u64,
    pub unknown: u64,
    pub refused: u64,
    pub changes: u64,
    pub watches: u64,
    pub batches: u64,
    pub leases: u64,
    pub pieces: u64,
    /// Stale reads that nothing was left to compare with.
    pub unchecked: u64,
    /// Servers that ended by themselves, as those do whose disk fails.
    pub ended: u64,
    pub faults: BTreeMap<String, u64>,
    /// From each kill to the answer of the first write that was asked for after it.
    pub pauses_ms: Vec<u64>,
    pub checking: Duration,
    pub measured: Vec<String>,
    pub violations: Vec<String>,
}

impl Report {
    pub(super) fn count(&mut self, window: &Window<'_>, took: Duration) {
        let count = |what: fn(&Outcome) -> bool| {
            let calls = window.calls.iter().filter(|call| what(&call.outcome));
            u64::try_from(calls.count()).unwrap()
        };
        let length = |count: usize| u64::try_from(count).unwrap();
        self.operations += length(window.calls.len());
        self.unknown += count(|outcome| *outcome == Outcome::Unknown);
        self.refused += count(|outcome| *outcome == Outcome::Refused);
        self.changes += length(window.changes.len());
        self.watches += length(window.watches.len());
        self.batches += window.watches.iter().map(|one| length(one.batches.len())).sum::<u64>();
        self.leases = self.leases.max(length(window.leases.len()));
        self.pieces += 1;
        self.checking += took;
    }

    pub(super) fn happened(&mut self, fault: &str) {
        *self.faults.entry(fault.to_owned()).or_default() += 1;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations ({} unknown, {} refused), {} changes; {} watches told {} times; \
             {} pieces, checked in {:?}; {} stale reads not compared; servers ended by themselves \
             {} times; faults {:?}",
            self.operations,
            self.unknown,
            self.refused,
            self.changes,
            self.watches,
            self.batches,
            self.pieces,
            self.checking,
            self.unchecked,
            self.ended,
            self.faults
        )?;
        for line in &self.measured {
            write!(f, "\n{line}")?;
        }
        if !self.pauses_ms.is_empty() {
            write!(f, "\n{}", Pauses(&self.pauses_ms))?;
        }
        Ok(())
    }
}

/// The middle, the 99th of 100, and the longest.
struct Pauses<'a>(&'a [u64]);

impl fmt::Display for Pauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.to_vec();
        sorted.sort_unstable();
        let at = |percent: usize| sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)];
        let (middle, most) = (at(50), sorted[sorted.len() - 1]);
        let count = sorted.len();
        write!(
            f,
            "{count} kills: next write after {middle} ms in the middle, p99 {} ms, ",
            at(99)
        )?;
        write!(f, "at most {most} ms")
    }
}

/// Of all runs, kept in a file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub runs: u64,
    pub operations: u64,
    pub unknown: u64,
    pub refused: u64,
    pub changes: u64,
    pub watches: u64,
    pub batches: u64,
    pub pieces: u64,
    pub violations: u64,
    pub faults: BTreeMap<String, u64>,
    /// By what was killed, and of which build.
    pub pauses_ms: BTreeMap<String, Vec<u64>>,
    pub seeds: Vec<u64>,
}

impl Totals {
    pub fn read(path: &Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).unwrap(),
            Err(_none_yet) => Self::default(),
        }
    }

    pub fn add(&mut self, report: &Report, seed: u64, kills: &str) {
        self.runs += 1;
        self.operations += report.operations;
        self.unknown += report.unknown;
        self.refused += report.refused;
        self.changes += report.changes;
        self.watches += report.watches;
        self.batches += report.batches;
        self.pieces += report.pieces;
        self.violations += u64::try_from(report.violations.len()).unwrap();
        for (fault, count) in &report.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        if !report.pauses_ms.is_empty() {
            let pauses = self.pauses_ms.entry(kills.to_owned()).or_default();
            pauses.extend(&report.pauses_ms);
        }
        self.seeds.push(seed);
    }

    pub fn write(&self, path: &Path) {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).unwrap();
        }
        let half = path.with_extension("half");
        std::fs::write(&half, serde_json::to_string_pretty(self).unwrap()).unwrap();
        std::fs::rename(half, path).unwrap();
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "in all {} runs, {} operations ({} unknown, {} refused), {} changes, {} watches told \
             {} times, {} pieces, {} violations; faults {:?}",
            self.runs,
            self.operations,
            self.unknown,
            self.refused,
            self.changes,
            self.watches,
            self.batches,
            self.pieces,
            self.violations,
            self.faults
        )?;
        for (kills, pauses) in &self.pauses_ms {
            write!(f, "\n{kills}: {}", Pauses(pauses))?;
        }
        Ok(())
    }
}
