//! The functions: one table of names, ways to call them, and what they do.
//!
//! A function of the table is found once, when an expression is checked, and called by its
//! place in the table.

mod authz;
mod format;
mod lists;
mod network;
mod optional;
mod quantity;
mod regexes;
mod semver;
mod standard;
mod strings;
mod template;
mod times;
mod url;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::LazyLock;

use regex::Regex;

use super::authorizer::{Asking, Decision};
use super::declared::{self, Overload};
use super::error::EvalError;
use super::value::Value;
use crate::quantity::Quantity;

pub(super) use format::Format;
pub(super) use network::Cidr;
pub(super) use semver::Semver;
pub(super) use url::Url;

/// Bytes that a compiled regular expression may take. What needs more is refused, as upstream
/// refuses what its engine finds too large.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Different patterns that one evaluation keeps compiled; beyond, they are compiled each time.
const REGEXES_MAX: usize = 64;
/// Items that one evaluation may copy. Joining lists costs the same whatever their length, so
/// this bounds what the cost does not.
const COPIED_ITEMS_MAX: u64 = 10_000_000;

/// The place of a function in the table.
pub(super) type FunctionId = u16;

/// What a function does with its arguments, the receiver first.
pub(super) type Eval = for<'a> fn(&[Value<'a>], &Context) -> Result<Value<'a>, EvalError>;

/// One name.
pub(super) struct Function {
    pub name: &'static str,
    /// As [`declared::overload`] reads them.
    pub overloads: &'static [&'static str],
    pub eval: Eval,
}

pub(super) const fn function(
    name: &'static str,
    overloads: &'static [&'static str],
    eval: Eval,
) -> Function {
    Function { name, overloads, eval }
}

/// What the checker and the evaluator know by place; a test holds the table to it.
pub(super) const NOT_STRICTLY_FALSE: FunctionId = 0;
pub(super) const CONDITIONAL: FunctionId = 1;
pub(super) const INDEX: FunctionId = 2;
pub(super) const OPTIONAL_INDEX: FunctionId = 3;
pub(super) const ADD: FunctionId = 4;
pub(super) const MAP_INSERT: FunctionId = 5;

/// Functions that only mutating policies have.
const PATCHES: &[&str] = &["jsonpatch.escapeKey"];

struct Table {
    functions: Vec<&'static Function>,
    overloads: Vec<Vec<Overload>>,
    by_name: HashMap<&'static str, FunctionId>,
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let libraries = [
        standard::FUNCTIONS,
        times::FUNCTIONS,
        strings::FUNCTIONS,
        template::FUNCTIONS,
        lists::FUNCTIONS,
        regexes::FUNCTIONS,
        optional::FUNCTIONS,
        url::FUNCTIONS,
        network::FUNCTIONS,
        quantity::FUNCTIONS,
        semver::FUNCTIONS,
        format::FUNCTIONS,
        authz::FUNCTIONS,
    ];
    let mut table = Table { functions: Vec::new(), overloads: Vec::new(), by_name: HashMap::new() };
    for one in libraries.into_iter().flatten() {
        let id = FunctionId::try_from(table.functions.len()).unwrap_or(FunctionId::MAX);
        table.functions.push(one);
        table.overloads.push(one.overloads.iter().map(|text| declared::overload(text)).collect());
        table.by_name.insert(one.name, id);
    }
    table
});

/// A function by its name. `patches` adds those of mutating policies.
pub(super) fn find(name: &str, patches: bool) -> Option<FunctionId> {
    if !patches && PATCHES.contains(&name) {
        return None;
    }
    TABLE.by_name.get(name).copied()
}

pub(super) fn name(id: FunctionId) -> &'static str {
    TABLE.functions.get(usize::from(id)).map_or("", |function| function.name)
}

pub(super) fn overloads(id: FunctionId) -> &'static [Overload] {
    TABLE.overloads.get(usize::from(id)).map_or(&[], Vec::as_slice)
}

pub(super) fn call<'a>(
    id: FunctionId,
    args: &[Value<'a>],
    context: &Context,
) -> Result<Value<'a>, EvalError> {
    match TABLE.functions.get(usize::from(id)) {
        Some(function) => (function.eval)(args, context),
        None => Err(EvalError::no_overload()),
    }
}

/// Values of types that libraries bring.
#[derive(Debug, Clone)]
pub enum Opaque<'a> {
    Url(Rc<Url>),
    Quantity(Quantity),
    Semver(Rc<Semver>),
    Ip(IpAddr),
    Cidr(Cidr),
    Format(&'static Format),
    Asking(Rc<Asking<'a>>),
    Decision(Rc<Decision>),
}

impl Opaque<'_> {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Asking(asking) => asking.stage.type_name(),
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Url(one), Self::Url(other)) => one == other,
            (Self::Quantity(one), Self::Quantity(other)) => one.nanos() == other.nanos(),
            (Self::Semver(one), Self::Semver(other)) => one.same_version(other),
            (Self::Ip(one), Self::Ip(other)) => one == other,
            (Self::Cidr(one), Self::Cidr(other)) => one == other,
            (Self::Format(one), Self::Format(other)) => one.name == other.name,
            (Self::Asking(one), Self::Asking(other)) => Rc::ptr_eq(one, other),
            (Self::Decision(one), Self::Decision(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Bytes of an address; all others are one thing.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(cidr) => u64::from(cidr.length).div_ceil(8),
            _ => 1,
        }
    }
}

/// What calls of one evaluation share.
#[derive(Debug, Default)]
pub(super) struct Context {
    regexes: RefCell<HashMap<Box<str>, Regex>>,
    copied: Cell<u64>,
}

impl Context {
    /// A pattern, compiled once.
    pub(super) fn regex(&self, pattern: &str) -> Result<Regex, EvalError> {
        if let Some(known) = self.regexes.borrow().get(pattern) {
            return Ok(known.clone());
        }
        let made = regex(pattern).map_err(|error| {
            EvalError::Failed(format!("error parsing regexp: {}", first_line(&error)))
        })?;
        let mut regexes = self.regexes.borrow_mut();
        if regexes.len() < REGEXES_MAX {
            regexes.insert(pattern.into(), made.clone());
        }
        Ok(made)
    }

    /// Accounts for items that are copied.
    pub(super) fn copy(&self, items: usize) -> Result<(), EvalError> {
        let copied = self.copied.get().saturating_add(u64::try_from(items).unwrap_or(u64::MAX));
        self.copied.set(copied);
        if copied > COPIED_ITEMS_MAX { Err(EvalError::CostExceeded) } else { Ok(()) }
    }
}

fn first_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned()
}

/// RE2's syntax, as far as crate regex has it: nearly all.
pub(super) fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build()
}

/// Wrong arguments, which the checker has not seen because a type was `dyn`.
pub(super) fn no_overload<'a>() -> Result<Value<'a>, EvalError> {
    Err(EvalError::no_overload())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_those_of_the_table() {
        for (id, expected) in [
            (NOT_STRICTLY_FALSE, "@not_strictly_false"),
            (CONDITIONAL, "_?_:_"),
            (INDEX, "_[_]"),
            (OPTIONAL_INDEX, "_[?_]"),
            (ADD, "_+_"),
            (MAP_INSERT, "cel.@mapInsert"),
        ] {
            assert_eq!(name(id), expected);
        }
    }

    #[test]
    fn no_name_stands_twice_and_all_types_are_known() {
        assert_eq!(TABLE.functions.len(), TABLE.by_name.len());
        for function in &TABLE.functions {
            for text in function.overloads {
                let words = text.split(|one: char| !one.is_ascii_alphanumeric() && one != '.');
                for word in words.map(|word| word.trim_matches('.')).filter(|word| !word.is_empty())
                {
                    let known = declared::simple(word).is_some()
                        || ["list", "map", "optional", "type"].contains(&word);
                    assert!(known, "{}: {word} in {text}", function.name);
                }
            }
        }
    }
}
