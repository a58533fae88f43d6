//! Semantic versions.

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Function, Opaque, function, no_overload};
use crate::cel::error::{EvalError, fail};
use crate::cel::value::Value;

type Evaluated<'a> = Result<Value<'a>, EvalError>;

const NUMBER: &[&str] = &["kubernetes.Semver.() int"];

pub(super) const FUNCTIONS: &[Function] = &[
    function(
        "semver",
        &["(string) kubernetes.Semver", "(string, bool) kubernetes.Semver"],
        |args, _| match read(args)? {
            Ok(version) => Ok(Value::Opaque(Opaque::Semver(Rc::new(version)))),
            Err(why) => fail(why),
        },
    ),
    function("isSemver", &["(string) bool", "(string, bool) bool"], |args, _| {
        Ok(Value::Bool(read(args)?.is_ok()))
    }),
    function("major", NUMBER, |args, _| number(args, 0)),
    function("minor", NUMBER, |args, _| number(args, 1)),
    function("patch", NUMBER, |args, _| number(args, 2)),
];

fn read(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => {
            Ok(Semver::parse(text.as_str()))
        }
        [Value::String(text), Value::Bool(true)] => {
            Ok(normalised(text.as_str()).and_then(|text| Semver::parse(&text)))
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn number<'a>(args: &[Value<'a>], index: usize) -> Evaluated<'a> {
    match args {
        [Value::Opaque(Opaque::Semver(version))] => {
            let number = version.numbers.get(index).copied().unwrap_or(0);
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

/// Without a leading `v` and leading zeros, and with all three numbers.
fn normalised(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text
        .splitn(3, '.')
        .map(|part| {
            if part.len() < 2 {
                return part.to_owned();
            }
            let bare = part.trim_start_matches('0');
            let zero = !bare.starts_with(|one: char| one.is_ascii_digit());
            if zero { format!("0{bare}") } else { bare.to_owned() }
        })
        .collect();
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    while parts.len() < 3 {
        parts.push("0".to_owned());
    }
    Ok(parts.join("."))
}

/// `major.minor.patch-pre+build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Text(String),
}

impl Semver {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let (rest, build) = match text.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (text, None),
        };
        let (core, pre) = match rest.split_once('-') {
            Some((core, pre)) => (core, Some(pre)),
            None => (rest, None),
        };
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts.as_slice() else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let numbers =
            [component(major, "major")?, component(minor, "minor")?, component(patch, "patch")?];
        let pre = match pre {
            Some(pre) => pre.split('.').map(identifier).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        for part in build.into_iter().flat_map(|build| build.split('.')) {
            if part.is_empty() {
                return Err("Build meta data is empty".to_owned());
            }
            if !part.bytes().all(is_plain) {
                return Err(format!("Invalid character(s) found in build meta data {part:?}"));
            }
        }
        Ok(Self { numbers, pre })
    }

    /// A version before its release is less than the release; build data does not count.
    pub(super) fn precedence(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => self.pre.cmp(&other.pre),
            }
        })
    }

    pub(super) fn same_version(&self, other: &Self) -> bool {
        self.precedence(other) == Ordering::Equal
    }
}

fn component(text: &str, name: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|one| one.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {name} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        let title: String = name.chars().take(1).map(|one| one.to_ascii_uppercase()).collect();
        let rest = name.get(1..).unwrap_or("");
        return Err(format!("{title}{rest} number must not contain leading zeroes {text:?}"));
    }
    let too_large = || format!("strconv.ParseUint: parsing {text:?}: value out of range");
    text.parse().ok().ok_or_else(too_large)
}

fn is_plain(one: u8) -> bool {
    one.is_ascii_alphanumeric() || one == b'-'
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|one| one.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            let why =
                format!("Numeric PreRelease version must not contain leading zeroes {text:?}");
            return Err(why);
        }
        let number = text.parse().ok().map(Identifier::Number);
        return number.ok_or_else(|| format!("{text:?} is too large"));
    }
    if !text.bytes().all(is_plain) {
        return Err(format!("Invalid character(s) found in prerelease {text:?}"));
    }
    Ok(Identifier::Text(text.to_owned()))
}
