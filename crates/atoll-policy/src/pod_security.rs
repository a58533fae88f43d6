//! Pod security standards: which pods a namespace takes, by its labels.
//!
//! The levels, their checks by version and the texts are those of Kubernetes' PodSecurity
//! admission.

mod baseline;
mod restricted;
#[cfg(test)]
mod tests;

use std::fmt;

use serde_json::Value;

/// Before the name of a mode in a namespace's labels.
const PREFIX: &str = "pod-security.kubernetes.io/";
/// The newest version that changes a check; later ones are the same.
const MINOR_MAX: u32 = 36;

/// How much a pod may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// A release of Kubernetes whose checks are meant; `None` is the latest.
pub type Minor = Option<u32>;

/// A level as of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard {
    pub level: Level,
    pub minor: Minor,
}

/// What a namespace's labels say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    pub enforce: Standard,
    pub audit: Standard,
    pub warn: Standard,
}

/// A label with a value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLabel {
    pub label: String,
    pub value: String,
    pub why: &'static str,
}

/// One check that a pod does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

impl fmt::Display for Standard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.minor {
            Some(minor) => write!(out, "{level}:v1.{minor}"),
            None => write!(out, "{level}:latest"),
        }
    }
}

impl Standard {
    /// The checks that a pod of this metadata and spec does not pass.
    #[must_use]
    pub fn violations(&self, metadata: &Value, spec: &Value) -> Vec<Violation> {
        if self.level == Level::Privileged {
            return Vec::new();
        }
        let pod = Pod { metadata, spec, minor: self.minor.unwrap_or(MINOR_MAX).min(MINOR_MAX) };
        let restricted = self.level == Level::Restricted;
        let mut found = baseline::violations(&pod, restricted);
        if restricted {
            found.extend(restricted::violations(&pod));
        }
        found
    }

    /// What is wrong in one sentence: `violates PodSecurity "restricted:latest": …` without its
    /// verb. `None` when nothing is.
    #[must_use]
    pub fn verdict(&self, metadata: &Value, spec: &Value) -> Option<String> {
        let found = self.violations(metadata, spec);
        if found.is_empty() {
            return None;
        }
        let texts: Vec<String> = found
            .iter()
            .map(|one| match one.detail.as_str() {
                "" => one.reason.clone(),
                detail => format!("{} ({detail})", one.reason),
            })
            .collect();
        Some(format!("PodSecurity \"{self}\": {}", texts.join(", ")))
    }
}

impl Policy {
    /// From the labels of a namespace. What no label says is privileged; whoever enforces is also
    /// warned, of what workloads' templates would make.
    #[must_use]
    pub fn of_labels(labels: &Value) -> (Self, Vec<BadLabel>) {
        let mut bad = Vec::new();
        let enforce = standard(labels, "enforce", Level::Restricted, &mut bad);
        let enforced = bad.is_empty();
        // What only informs is not to be feared for a typing error.
        let audit = standard(labels, "audit", Level::Privileged, &mut bad);
        let mut warn = standard(labels, "warn", Level::Privileged, &mut bad);
        let stated = |label: &str| labels.get(format!("{PREFIX}{label}")).is_some();
        if !stated("warn") && stated("enforce") && enforced && enforce.level > warn.level {
            warn.level = enforce.level;
            if !stated("warn-version") {
                warn.minor = enforce.minor;
            }
        }
        (Self { enforce, audit, warn }, bad)
    }

    /// Whether nothing is checked at all.
    #[must_use]
    pub fn is_open(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|one| one.level == Level::Privileged)
    }
}

/// `instead` is the level that a value means which is none.
fn standard(labels: &Value, mode: &str, instead: Level, bad: &mut Vec<BadLabel>) -> Standard {
    let mut found = Standard { level: Level::Privileged, minor: None };
    let label = format!("{PREFIX}{mode}");
    if let Some(value) = labels.get(&label).and_then(Value::as_str) {
        found.level = match value {
            "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            "restricted" => Level::Restricted,
            _ => {
                let why = "must be one of privileged, baseline, restricted";
                bad.push(BadLabel { label, value: value.to_owned(), why });
                instead
            }
        };
    }
    let label = format!("{PREFIX}{mode}-version");
    if let Some(value) = labels.get(&label).and_then(Value::as_str) {
        found.minor = match value.strip_prefix("v1.").map(minor) {
            Some(Some(minor)) => Some(minor),
            _ if value == "latest" => None,
            _ => {
                let why = "must be \"latest\" or \"v1.x\"";
                bad.push(BadLabel { label, value: value.to_owned(), why });
                None
            }
        };
    }
    found
}

/// Digits without a leading zero.
fn minor(text: &str) -> Option<u32> {
    let plain =
        text.bytes().all(|one| one.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

// === what the checks share ===

/// A pod, or the template of one, as of a version.
struct Pod<'p> {
    metadata: &'p Value,
    spec: &'p Value,
    minor: u32,
}

impl<'p> Pod<'p> {
    /// All containers, those that come first and later ones included.
    fn containers(&self) -> impl Iterator<Item = &'p Value> {
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .filter_map(|list| self.spec.get(list).and_then(Value::as_array))
            .flatten()
    }

    fn security(&self) -> &'p Value {
        &self.spec["securityContext"]
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Users of a namespace of its own are nobody on the node.
    fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// The names of containers that are bad, and the bad values that they hold.
    fn bad<'v>(&self, values: impl Fn(&'p Value) -> Vec<&'v str>) -> (Vec<&'p str>, Vec<&'v str>) {
        let (mut names, mut all) = (Vec::new(), Vec::new());
        for container in self.containers() {
            let found = values(container);
            if !found.is_empty() {
                names.push(name_of(container));
                all.extend(found);
            }
        }
        (names, sorted(all))
    }

    /// The names of containers for which something holds.
    fn named(&self, holds: impl Fn(&'p Value) -> bool) -> Vec<&'p str> {
        self.containers().filter(|one| holds(one)).map(name_of).collect()
    }
}

fn name_of(object: &Value) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or("")
}

fn sorted(mut list: Vec<&str>) -> Vec<&str> {
    list.sort_unstable();
    list.dedup();
    list
}

fn quoted(items: &[impl AsRef<str>]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("\"{}\"", items.join("\", \""))
}

fn plural<'t>(one: &'t str, several: &'t str, count: usize) -> &'t str {
    if count == 1 { one } else { several }
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`; `None` when nobody set anything.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(containers(names)),
        (true, false) => Some(format!("pod and {}", containers(names))),
    }
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

fn items<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
