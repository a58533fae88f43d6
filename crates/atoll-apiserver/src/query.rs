//! The parameters of a URL, and those that every verb knows.

use std::time::Duration;

use atoll_api::field::{self, Path};
use atoll_api::go_time;

use crate::request::percent_decode;
use crate::status::Status;

/// Parameters in the order in which they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// What to do with fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The options that create, update and patch share.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    /// Empty: taken from the User-Agent.
    pub field_manager: String,
    pub force: Option<bool>,
}

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(key, true), percent_decode(value, true))
        });
        Self(pairs.collect())
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// The value, empty when there is none.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own == key).map(|(_, value)| value.as_str())
    }

    /// Upstream takes anything but an explicit no as yes.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.opt_flag(key).unwrap_or(false)
    }

    pub(crate) fn opt_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.text(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|error: std::num::ParseIntError| {
                let why = go_parse_error("ParseInt", text, &error);
                Status::bad_request(why)
            }),
        }
    }

    /// How long the client would have its request take at most; not positive is as long as the
    /// server likes.
    pub(crate) fn timeout(&self) -> Result<Option<Duration>, Status> {
        let text = self.text("timeout");
        if text.is_empty() {
            return Ok(None);
        }
        let nanos = go_time::parse_duration(text).map_err(|why| {
            Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))
        })?;
        let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0);
        Ok(nanos.map(Duration::from_nanos))
    }

    /// `kind` is that of the options (`CreateOptions`, `PatchOptions`), for error texts.
    pub(crate) fn write_options(&self, kind: &str) -> Result<WriteOptions, Status> {
        let mut errors = Vec::new();
        let dry_run = dry_run(self.all("dryRun"), &mut errors);
        let field_validation = match self.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let supported = ["", "Ignore", "Strict", "Warn"];
                errors.push(Path::new("fieldValidation").not_supported(other, &supported));
                FieldValidation::Warn
            }
        };
        let field_manager = self.text("fieldManager").to_owned();
        check_manager(&field_manager, &mut errors);
        if errors.is_empty() {
            let force = self.opt_flag("force");
            return Ok(WriteOptions { dry_run, field_validation, field_manager, force });
        }
        Err(Status::invalid_kind("meta.k8s.io", kind, "", &errors))
    }
}

/// The only dry run is of everything.
pub(crate) fn dry_run<'a>(
    values: impl Iterator<Item = &'a str>,
    errors: &mut Vec<field::Error>,
) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.push(Path::new("dryRun").not_supported(values.clone(), &["All"]));
    }
    !values.is_empty()
}

/// What Go says of a number that is none.
pub(crate) fn go_parse_error(
    function: &str,
    text: &str,
    error: &std::num::ParseIntError,
) -> String {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let why = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", field::quote(text))
}

/// Bytes of a manager's name, at most.
const MANAGER_BYTES_MAX: usize = 128;

fn check_manager(manager: &str, errors: &mut Vec<field::Error>) {
    let at = Path::new("fieldManager");
    if manager.len() > MANAGER_BYTES_MAX {
        errors.push(at.too_long(MANAGER_BYTES_MAX));
    }
    for (position, character) in manager.char_indices().filter(|(_, one)| one.is_control()) {
        let code = u32::from(character);
        let why = format!("invalid character U+{code:04X} (at position {position})");
        errors.push(at.invalid(manager, why));
    }
}
