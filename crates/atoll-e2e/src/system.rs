//! What a machine has, as lines of text: to be compared before and after a cluster.
//!
//! Other clusters may come and go on the same machine. Lines that name one of them are
//! left out; what is not told apart so easily has to be the same in the end.

use crate::cluster::run;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

const RUN_DIR: &str = "/run/atoll";

/// Mounts, cgroups, links, addresses, routes, rules, tables, namespaces, processes and run
/// files of Atoll.
pub fn state() -> BTreeSet<String> {
    let mut lines = everything();
    let others = others();
    lines.retain(|line| !others.iter().any(|other| line.contains(other)));
    lines
}

/// Whatever the machine has that names one cluster, by the id of [`id_of`].
pub fn named(id: &str) -> BTreeSet<String> {
    let mut lines = everything();
    lines.retain(|line| line.contains(id));
    lines
}

fn everything() -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut add = |kind: &str, text: &str| {
        lines.extend(text.lines().map(|line| format!("{kind}: {}", line.trim_end())));
    };
    add("link", &command("ip", &["-br", "link"]));
    add("address", &command("ip", &["-br", "-4", "address"]));
    add("route", &command("ip", &["route", "show", "table", "all"]));
    add("policy", &command("ip", &["rule"]));
    add("table", &command("nft", &["list", "tables"]));
    add("netns", &command("ip", &["netns"]));
    add("forwarding", &read(Path::new("/proc/sys/net/ipv4/ip_forward")));
    add("mount", &mounts());
    add("cgroup", &cgroups());
    add("file", &files(Path::new(RUN_DIR)));
    add("process", &processes());
    lines
}

/// What a former cluster left, or took from the host. What other clusters had on the
/// machine may have gone with them meanwhile.
pub fn left(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    const OF_OTHERS: [&str; 4] = ["- mount:", "- cgroup:", "- file:", "- process:"];
    let mut lines = difference(before, after);
    lines.retain(|line| !OF_OTHERS.iter().any(|kind| line.starts_with(kind)));
    lines
}

/// What is in `after` and was not in `before`, and the other way round.
pub fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let more = after.difference(before).map(|line| format!("+ {line}"));
    let less = before.difference(after).map(|line| format!("- {line}"));
    more.chain(less).collect()
}

/// What an empty cluster has inside: each node's namespace, cgroups, and what lies in its
/// folders of pods, networks and run files. Numbers that change by themselves are left out.
pub fn inside(dir: &Path) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let id = id_of(dir);
    let run = Path::new(RUN_DIR).join(&id);
    for entry in std::fs::read_dir(run.join("netns")).unwrap().flatten() {
        let node = entry.file_name().to_string_lossy().into_owned();
        let netns = format!("--net={}", entry.path().display());
        let mut add = |kind: &str, text: &str| {
            lines.extend(text.lines().map(|line| format!("{node} {kind}: {}", line.trim())));
        };
        let here = |words: &[&str]| {
            let mut all = vec![netns.as_str()];
            all.extend(words);
            command("nsenter", &all)
        };
        add("link", &here(&["ip", "-br", "link"]));
        add("address", &here(&["ip", "-br", "-4", "address"]));
        add("route", &here(&["ip", "route", "show", "table", "all"]));
        add("rule", &what_stays(&here(&["nft", "-s", "list", "ruleset"])));
        for folder in ["pods", "net", "logs"] {
            add(folder, &files(&dir.join(&node).join(folder)));
        }
        for folder in ["ns", "shim"] {
            add(folder, &files(&run.join(&node).join(folder)));
        }
    }
    let own = |text: String| -> Vec<String> {
        text.lines().filter(|line| line.contains(&id)).map(ToOwned::to_owned).collect()
    };
    lines.extend(own(mounts()).into_iter().map(|line| format!("mount: {line}")));
    lines.extend(own(cgroups()).into_iter().map(|line| format!("cgroup: {line}")));
    // The parents of pods stay with the node; link-local addresses come a moment late.
    lines.retain(|line| !line.contains("fe80:") && !is_parent(line, &id));
    lines
}

/// The cgroup of a node or of a class of pods, which holds no process itself.
fn is_parent(line: &str, id: &str) -> bool {
    let Some((_, rest)) = line.split_once(&format!("/atoll/{id}-node-")) else { return false };
    line.starts_with("cgroup: ")
        && (!rest.contains('/') || rest.ends_with("/besteffort") || rest.ends_with("/burstable"))
}

/// The id in the names of everything that the cluster in `dir` makes.
pub fn id_of(dir: &Path) -> String {
    let record: serde_json::Value = serde_json::from_str(&read(&dir.join("cluster.json"))).unwrap();
    record["id"].as_str().unwrap().to_owned()
}

/// Ids of clusters that run beside: their names and folders are not ours to compare.
fn others() -> Vec<String> {
    let mut words = Vec::new();
    for entry in std::fs::read_dir(RUN_DIR).into_iter().flatten().flatten() {
        let record = read(&entry.path().join("underlay.json"));
        let Ok(record) = serde_json::from_str::<serde_json::Value>(&record) else { continue };
        words.push(entry.file_name().to_string_lossy().into_owned());
        words.extend(record["data_dir"].as_str().map(ToOwned::to_owned));
    }
    words
}

/// In every mount namespace of the machine, those of other clusters' containers excepted.
fn mounts() -> String {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    let others = others();
    for pid in pids() {
        let process = Path::new("/proc").join(&pid);
        let cgroups = read(&process.join("cgroup"));
        if others.iter().any(|other| cgroups.contains(other)) {
            continue;
        }
        let Ok(namespace) = std::fs::read_link(process.join("ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        for line in read(&process.join("mountinfo")).lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            if let (Some(root), Some(point)) = (fields.get(3), fields.get(4)) {
                // Roots of namespace mounts are numbered anew each time.
                let root = if root.starts_with('/') { root } else { "namespace" };
                writeln!(text, "{point} ({root})").unwrap();
            }
        }
    }
    text
}

fn cgroups() -> String {
    let mut text = String::new();
    let hierarchies = read(Path::new("/proc/self/mountinfo"));
    for line in hierarchies.lines().filter(|line| line.contains(" - cgroup")) {
        let Some(point) = line.split(' ').nth(4) else { continue };
        for folder in folders(&Path::new(point).join("atoll")) {
            writeln!(text, "{}", folder.display()).unwrap();
        }
    }
    text
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(folders(&entry.path()));
        }
    }
    found
}

fn files(root: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        writeln!(text, "{}", entry.path().display()).unwrap();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            text.push_str(&files(&entry.path()));
        }
    }
    text
}

/// Those that run from a copy of the program, or in a cgroup of ours.
fn processes() -> String {
    let mut text = String::new();
    for pid in pids() {
        let process = Path::new("/proc").join(&pid);
        let program = std::fs::read_link(process.join("exe")).unwrap_or_default();
        let program = program.display().to_string();
        let cgroups = read(&process.join("cgroup"));
        if program.contains("/program/") && program.contains("/atoll")
            || cgroups.contains("/atoll/")
        {
            let words = read(&process.join("cmdline")).replace('\0', " ");
            let cgroup = cgroups.lines().find(|line| line.contains("/atoll/")).unwrap_or_default();
            writeln!(text, "{pid} {words} in {cgroup}").unwrap();
        }
    }
    text
}

fn pids() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).collect()
}

/// Clients that are kept at an endpoint stay until their time.
fn what_stays(rules: &str) -> String {
    let lines = rules.lines().map(|line| line.split(" expires ").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn command(program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(words);
    run(command, "").stdout
}
