//! What a series of commands printed, with everything in it that differs from run to run
//! replaced by what it is.

use crate::servers::Served;
use atoll_e2e::{Output, cluster::run, eventually};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

const LINE_MAX: Duration = Duration::from_secs(20);

pub struct Transcript<'a> {
    etcdctl: &'a Path,
    pub served: &'a Served,
    /// What stands before the endpoint: nothing, or `http://`.
    pub scheme: &'static str,
    text: String,
    /// What stood for an id before.
    names: BTreeMap<String, String>,
}

/// A command that goes on while others run.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Running {
    /// Its next line.
    pub fn line(&self) -> String {
        self.line_within(LINE_MAX).expect("a command prints no more")
    }

    pub fn line_within(&self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Ends it as Ctrl-C does.
    pub fn interrupt(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = eventually(LINE_MAX, "an interrupted command ends", || {
            self.child.try_wait().unwrap().ok_or_else(|| "it runs".to_owned())
        });
        ended.code().unwrap_or(-1)
    }
}

impl<'a> Transcript<'a> {
    pub fn new(etcdctl: &'a Path, served: &'a Served) -> Self {
        Self { etcdctl, served, scheme: "", text: String::new(), names: BTreeMap::new() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.etcdctl);
        let endpoint = format!("{}{}", self.scheme, self.served.endpoint);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoint]);
        command.args(arguments);
        command
    }

    /// Runs it without writing it down.
    pub fn run(&mut self, arguments: &[&str]) -> Output {
        run(self.command(arguments), "")
    }

    pub fn step(&mut self, arguments: &[&str]) -> String {
        self.step_with(arguments, "")
    }

    /// `input` is what the command reads. Returns what it printed.
    pub fn step_with(&mut self, arguments: &[&str], input: &str) -> String {
        let output = run(self.command(arguments), input);
        let words = self.normal(&arguments.join(" "));
        let printed = self.normal(&output.stdout);
        let said = complaint(&output.stderr);
        let said = self.normal(&said);
        writeln!(self.text, "$ etcdctl {words}\n{printed}").unwrap();
        writeln!(self.text, "{said}[{}]", output.code).unwrap();
        output.stdout
    }

    pub fn start(&mut self, arguments: &[&str], input: &str) -> Running {
        use std::io::Write as _;
        let mut command = self.command(arguments);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let words = self.normal(&arguments.join(" "));
        writeln!(self.text, "$ etcdctl {words} &").unwrap();
        Running { child, lines }
    }

    /// Writes down so many lines of a command that runs.
    pub fn lines(&mut self, running: &Running, count: usize) {
        for _ in 0..count {
            let line = self.normal(&running.line());
            writeln!(self.text, "& {line}").unwrap();
        }
    }

    pub fn note(&mut self, what: &str) {
        writeln!(self.text, "# {what}").unwrap();
    }

    pub fn finish(self) -> String {
        self.text
    }

    /// Ids, in hexadecimal and in decimal digits, in the order in which they appear.
    fn normal(&mut self, text: &str) -> String {
        let text = text.replace(&self.served.endpoint, "ENDPOINT");
        let text = without_times(without_times(text, "took = "), "\"took\":\"");
        let mut out = String::new();
        let mut word = String::new();
        for character in text.chars().chain(['\n']) {
            if character.is_ascii_alphanumeric() {
                word.push(character);
                continue;
            }
            out.push_str(&self.name(&word, &out));
            word.clear();
            out.push(character);
        }
        out.pop();
        spaced(&out)
    }

    fn name(&mut self, word: &str, before: &str) -> String {
        let is_hex = word.len() >= 14 && word.chars().all(|one| one.is_ascii_hexdigit());
        if is_hex {
            let next = format!("ID{}", self.names.len());
            return self.names.entry(word.to_owned()).or_insert(next).clone();
        }
        let label = before.trim_end_matches(|one: char| !one.is_ascii_alphanumeric());
        let label = label.rsplit(|one: char| !one.is_ascii_alphanumeric() && one != '_').next();
        let is_number = !word.is_empty() && word.chars().all(|one| one.is_ascii_digit());
        match label {
            Some("raft_term" | "RaftTerm" | "remaining" | "took" | "cluster_id" | "member_id")
                if is_number =>
            {
                "N".to_owned()
            }
            _ => word.to_owned(),
        }
    }
}

/// How long something took is left out, and so is how far it is.
fn without_times(text: String, label: &str) -> String {
    let mut parts = text.split(label);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|one: char| one == '"' || one.is_whitespace()).unwrap_or(part.len());
        out.push_str(label);
        out.push('T');
        out.push_str(&part[end..]);
    }
    out
}

/// The last line, without what the client logs.
fn complaint(stderr: &str) -> String {
    stderr.lines().filter(|line| !line.starts_with('{')).map(|line| format!("{line}\n")).collect()
}

/// Columns of a table are as wide as the ids in them.
fn spaced(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("+-") {
            lines.push("+-+".to_owned());
            continue;
        }
        lines.push(line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    lines.join("\n")
}
