//! Console blocks of the documentation, run as a reader would type them.
//!
//! In a block fenced as `console` a line that begins with `$ ` is a command, and the lines
//! below it are what it prints; `...` stands for any text. A block is run until its output
//! fits or its time is over, so that a page may show what takes a moment.

use crate::wait::eventually;
use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    pub expected: Vec<String>,
}

/// The console blocks of a page, in order.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        match line.trim_end() {
            "```console" => inside = true,
            "```" => inside = false,
            line if inside => match line.strip_prefix("$ ") {
                Some(command) => {
                    steps.push(Step { command: command.to_owned(), expected: Vec::new() });
                }
                None => {
                    if let Some(step) = steps.last_mut() {
                        step.expected.push(line.to_owned());
                    }
                }
            },
            _ => {}
        }
    }
    steps
}

/// Runs one step in `folder` with these variables until its output is as shown.
pub fn run(step: &Step, folder: &Path, environment: &[(String, String)]) {
    eventually(WITHIN, &step.command, || {
        let output = Command::new("bash")
            .args(["-c", &step.command])
            .current_dir(folder)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if fits(&step.expected, &printed) {
            Ok(())
        } else {
            Err(format!("printed\n{printed}\ninstead of\n{}", step.expected.join("\n")))
        }
    });
}

/// Whether a command printed what a page shows. Runs of blanks count as one, since columns
/// widen with their contents.
fn fits(expected: &[String], printed: &str) -> bool {
    let printed: Vec<String> =
        printed.lines().map(squeeze).filter(|line| !line.is_empty()).collect();
    let expected: Vec<String> =
        expected.iter().map(|line| squeeze(line)).filter(|line| !line.is_empty()).collect();
    if expected.is_empty() {
        return true;
    }
    expected.len() == printed.len()
        && expected.iter().zip(&printed).all(|(wanted, line)| line_fits(wanted, line))
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_fits(wanted: &str, line: &str) -> bool {
    let mut parts = wanted.split("...");
    let Some(first) = parts.next() else { return line.is_empty() };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let mut exact = true;
    for part in parts {
        exact = part.is_empty();
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
        if !part.is_empty() && rest.is_empty() {
            exact = true;
        }
    }
    if wanted.contains("...") { exact || rest.is_empty() } else { rest.is_empty() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_other_fences_are_not() {
        let page = "text\n```console\n$ echo a\na\n$ true\n```\n```yaml\n$ no\n```\n";
        let found = steps(page);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].expected, ["a"]);
    }

    #[test]
    fn dots_stand_for_any_text() {
        assert!(line_fits("pod/web-... ready in ... s", "pod/web-x1 ready in 3 s"));
        assert!(line_fits("a ...", "a b c"));
        assert!(!line_fits("a ... z", "a b c"));
        assert!(!line_fits("a", "a b"));
        assert!(fits(&["NAME   AGE".into()], "NAME AGE\n"));
    }
}
