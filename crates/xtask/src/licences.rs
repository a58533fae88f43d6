//! Licences of dependencies against the list in `deny.toml`.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{collections::BTreeSet, process::Command};

/// Packages that carry their licence as a file only, as read there; deny.toml says the same
/// to `cargo deny` under `clarify`.
const CLARIFIED: &[(&str, &str)] = &[("rust-criu", "MIT")];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Adds a violation for each package whose licence is not allowed.
pub(crate) fn check(violations: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string("deny.toml").context("reading deny.toml")?;
    let allowed = allowed(&text);
    let output = Command::new("cargo")
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform", TARGET])
        .output()
        .context("running cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading metadata")?;
    let resolved: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if !package["id"].as_str().is_some_and(|id| resolved.contains(id)) {
            continue;
        }
        let name = package["name"].as_str().unwrap_or_default();
        let clarified = CLARIFIED.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
        let licence = package["license"].as_str().or(clarified).unwrap_or_default();
        if !holds(licence, &allowed) {
            violations.push(format!(
                "{name}: the licence {licence:?} is not allowed; see [licenses] in deny.toml"
            ));
        }
    }
    Ok(())
}

/// The quoted names between `allow = [` and `]`.
fn allowed(text: &str) -> BTreeSet<String> {
    let list = text.split("allow = [").nth(1).and_then(|rest| rest.split("\n]").next());
    let quoted = list.unwrap_or_default().split('"').skip(1).step_by(2);
    quoted.map(ToOwned::to_owned).collect()
}

/// Whether an SPDX expression can be satisfied. `/` is an old way to write OR.
fn holds(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = expression.split_whitespace().peekable();
    either(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut any = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        any |= both(words, allowed);
    }
    any
}

fn both(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut all = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        all &= one(words, allowed);
    }
    all
}

fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.next() else { return false };
    if word == "(" {
        let inner = either(words, allowed);
        words.next_if_eq(&")");
        return inner;
    }
    if words.next_if_eq(&"WITH").is_some() {
        let exception = words.next().unwrap_or_default();
        return allowed.contains(&format!("{word} WITH {exception}"));
    }
    allowed.contains(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = allowed("allow = [\n  \"MIT\",\n  \"ISC\", # why\n]\n");
        assert!(holds("GPL-3.0 OR MIT", &allowed));
        assert!(holds("MIT/Apache-2.0", &allowed));
        assert!(holds("ISC AND (MIT OR GPL-2.0)", &allowed));
        assert!(!holds("MIT AND GPL-3.0", &allowed));
        assert!(!holds("MIT WITH some-exception", &allowed));
        assert!(!holds("", &allowed));
    }
}
