//! `docs/conformance.md` against the list of conformance tests, and against the tests that it
//! names.
//!
//! The list lies beside the repository and is not part of it; without it that half says that it
//! skipped.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests count as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use atoll_api::tree;

/// The verdicts, in the order of the columns that count them.
const VERDICTS: [&str; 4] = ["covered", "partly", "untested", "missing"];
/// Conformance tests of Kubernetes v1.36.
const TESTS: usize = 446;

/// One test as the document has it.
struct Row<'a> {
    sig: &'a str,
    name: &'a str,
    verdict: &'a str,
    by: &'a str,
    note: &'a str,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn document() -> String {
    std::fs::read_to_string(root().join("docs/conformance.md")).unwrap()
}

/// The cells of a line of a table; nothing for the line below its head and for other text.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix("| ")?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let mut sig = "";
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            sig = title;
        }
        let Some(&[name, verdict, by, note]) = cells(line).as_deref() else { continue };
        if name != "test" {
            rows.push(Row { sig, name, verdict, by, note });
        }
    }
    rows
}

/// What stands between backticks and names a function: crate, file, function.
fn functions(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| {
        let (of, place) = code.split_once(' ')?;
        let (file, function) = place.rsplit_once("::")?;
        Some((of, file, function))
    })
}

/// A name without tags like `[Conformance]` and `[sig-node]`.
fn untagged(name: &str) -> String {
    let mut rest = name;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once('[') {
        kept.push_str(before);
        rest = after.split_once(']').map_or("", |(_, behind)| behind);
    }
    kept.push_str(rest);
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_conformance_test_stands_in_the_document_once() {
    let list = root().join("../shared/oracles/conformance.yaml");
    let bytes = match std::fs::read(list) {
        Ok(bytes) => bytes,
        Err(error) => return println!("skipped: no list of conformance tests ({error})"),
    };
    let list = tree::from_yaml(&bytes).unwrap().object;
    let names = list.as_array().unwrap().iter().map(|one| one["codename"].as_str().unwrap());
    let listed: Vec<(String, String)> = names
        .map(|name| {
            let (sig, _) = name.strip_prefix('[').unwrap().split_once(']').unwrap();
            (sig.to_owned(), untagged(name))
        })
        .collect();
    let text = document();
    let told: Vec<(String, String)> =
        rows(&text).iter().map(|row| (row.sig.to_owned(), row.name.to_owned())).collect();
    assert_eq!((listed.len(), told.len()), (TESTS, TESTS));
    let (listed, told) = (BTreeSet::from_iter(listed), BTreeSet::from_iter(told));
    assert_eq!((listed.len(), told.len()), (TESTS, TESTS), "a name stands twice");
    let differs: Vec<_> = listed.symmetric_difference(&told).collect();
    assert!(differs.is_empty(), "in one of the two only: {differs:#?}");
    println!("{TESTS} tests stand in the document");
}

#[test]
fn counts_are_those_of_the_rows() {
    let text = document();
    let mut counted: BTreeMap<&str, [usize; 5]> = BTreeMap::new();
    for row in rows(&text) {
        let place = VERDICTS.iter().position(|verdict| *verdict == row.verdict);
        let place = place.unwrap_or_else(|| panic!("{}: no verdict {:?}", row.name, row.verdict));
        for key in [row.sig, "all"] {
            let counts = counted.entry(key).or_default();
            counts[0] += 1;
            counts[place + 1] += 1;
        }
    }
    let told = text.lines().filter_map(cells).filter(|cells| cells.len() == 6);
    let told: BTreeMap<&str, [usize; 5]> = told
        .filter(|cells| cells[0] != "sig")
        .map(|cells| (cells[0], std::array::from_fn(|place| cells[place + 1].parse().unwrap())))
        .collect();
    assert_eq!(told, counted);
    assert_eq!(counted["all"][0], TESTS);
}

#[test]
fn every_function_that_is_named_is_there() {
    let text = document();
    for row in rows(&text) {
        let claims = matches!(row.verdict, "covered" | "partly");
        assert!(!claims || functions(row.by).next().is_some(), "{}: by no test", row.name);
        assert_eq!(row.verdict == "covered", row.note.is_empty(), "{}", row.name);
    }
    let mut sources: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for (of, file, function) in functions(&text) {
        let source = sources.entry((of, file)).or_insert_with(|| source(of, file));
        assert!(source.contains(&format!("fn {function}(")), "no {function} in {file} of {of}");
    }
    assert!(sources.len() > 50, "only {} files are named", sources.len());
}

/// The text of a file of a crate's tests or sources.
fn source(of: &str, file: &str) -> String {
    let own = root().join("crates").join(format!("atoll-{of}"));
    let read = |place: &str| std::fs::read_to_string(own.join(place).join(format!("{file}.rs")));
    let found: String = ["tests", "src"].into_iter().filter_map(|place| read(place).ok()).collect();
    assert!(!found.is_empty(), "no {file} in the crate {of}");
    found
}
