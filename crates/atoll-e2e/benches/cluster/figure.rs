//! One measured figure: its runs, and the bar beside it.

use std::fmt;

pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub goal: &'static str,
    pub runs: Vec<f64>,
}

impl Figure {
    pub fn new(what: &str, unit: &'static str, goal: &'static str) -> Self {
        Self { what: what.to_owned(), unit, goal, runs: Vec::new() }
    }

    pub fn add(&mut self, value: f64) {
        self.runs.push(value);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        runs
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.sorted();
        let (Some(least), Some(greatest)) = (runs.first(), runs.last()) else {
            return write!(f, "| {} | not measured | | {} |", self.what, self.goal);
        };
        let median = runs[runs.len() / 2];
        let (what, unit, goal, count) = (&self.what, self.unit, self.goal, runs.len());
        write!(
            f,
            "| {what} | {median:.2} {unit} | {least:.2} to {greatest:.2}, {count} runs | {goal} |"
        )
    }
}
