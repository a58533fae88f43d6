//! Every command of kubectl as a user types it, and what it prints: the tables in `kubectl/`.
//!
//! A line `$ command` is run by a shell; the lines below it are what it prints on both outputs,
//! `...` standing for any text, or, alone on a line, for any lines. `? 3` is its exit code where
//! that is not 0. `$~ command` is run again until it fits.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block"
)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use atoll_e2e::{Cluster, image, is_root};
use serde_json::json;

/// How long a command that needs a while is run again.
const WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Step {
    line: usize,
    command: String,
    again: bool,
    expected: Vec<String>,
    code: i32,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl")
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let command = line.strip_prefix("$ ").map(|command| (command, false));
        let command = command.or(line.strip_prefix("$~ ").map(|command| (command, true)));
        match (command, steps.last_mut()) {
            (Some((command, again)), _) => steps.push(Step {
                line: number + 1,
                command: command.to_owned(),
                again,
                expected: Vec::new(),
                code: 0,
            }),
            (None, _) if line.starts_with('#') || line.trim().is_empty() => {}
            (None, Some(step)) => match line.strip_prefix("? ") {
                Some(code) => step.code = code.parse().unwrap(),
                None => step.expected.push(squeeze(line)),
            },
            (None, None) => panic!("line {}: output of no command", number + 1),
        }
    }
    steps
}

fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a step until it fits, or its time is over; the error shows what it printed instead.
fn check(step: &Step, cluster: &Cluster, folder: &Path) -> Result<(), String> {
    let end = Instant::now() + if step.again { WITHIN } else { Duration::ZERO };
    loop {
        let output = Command::new("bash")
            .args(["-o", "pipefail", "-c", &format!("{{ {}\n}} 2>&1", step.command)])
            .current_dir(folder)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("HOME", folder)
            .env("ATOLL_DIR", &cluster.dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<String> =
            printed.lines().map(squeeze).filter(|line| !line.is_empty()).collect();
        let code = output.status.code().unwrap_or(-1);
        if code == step.code && lines_fit(&step.expected, &lines) {
            return Ok(());
        }
        if Instant::now() >= end {
            let expected = step.expected.join("\n    ");
            return Err(format!(
                "line {}: $ {}\n  expected (exit code {}):\n    {expected}\n  printed (exit code \
                 {code}):\n    {}",
                step.line,
                step.command,
                step.code,
                lines.join("\n    ")
            ));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn lines_fit(expected: &[String], lines: &[String]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=lines.len()).any(|skip| lines_fit(rest, &lines[skip..]))
        }
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, more)| line_fits(first, line) && lines_fit(rest, more)),
    }
}

fn line_fits(expected: &str, line: &str) -> bool {
    let Some((head, tail)) = expected.split_once("...") else { return expected == line };
    let Some(rest) = line.strip_prefix(head) else { return false };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| line_fits(tail, &rest[at..]) || (tail.is_empty() && at == rest.len()))
}

#[test]
fn tables_are_read_and_compared() {
    let steps = steps("# words\n$ a\nx ... y\n? 2\n\n$~ b\n...\nend\n");
    assert_eq!((steps[0].code, steps[1].again, steps[1].line), (2, true, 6));
    let lines = |all: &[&str]| all.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert!(lines_fit(&steps[0].expected, &lines(&["x 1 2 y"])));
    assert!(!lines_fit(&steps[0].expected, &lines(&["x 1 2"])));
    assert!(lines_fit(&steps[1].expected, &lines(&["1", "2", "end"])));
    assert!(!lines_fit(&steps[1].expected, &lines(&["end", "1"])));
    assert!(!lines_fit(&[], &lines(&["anything"])));
}

#[test]
fn kubectl_prints_what_users_expect() {
    if !is_root("kubectl_transcripts") {
        return;
    }
    let mut cluster = Cluster::start(1);
    image::import_busybox(&cluster, "tools.local/busybox:1", json!({"Cmd": ["sh"]}));
    let mut tables: Vec<PathBuf> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    tables.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    tables.sort();
    let only = std::env::var("KUBECTL_TABLE").unwrap_or_default();
    let (mut count, mut failures) = (0, Vec::new());
    for table in tables {
        let name = table.file_stem().unwrap().to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        for step in steps(&std::fs::read_to_string(&table).unwrap()) {
            count += 1;
            if let Err(why) = check(&step, &cluster, scratch.path()) {
                println!("{name}, {why}\n");
                failures.push(format!("{name}, line {}: {}", step.line, step.command));
            }
        }
    }
    println!("{} of {count} commands print what is expected", count - failures.len());
    cluster.stop();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
