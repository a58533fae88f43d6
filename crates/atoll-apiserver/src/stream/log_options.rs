//! What may be asked of a log, checked before the pod is looked for (upstream's
//! `ValidatePodLogOptions`, without its gates of alpha).

use atoll_api::field::{self, Path};

use crate::call::Call;
use crate::query::Query;
use crate::status::Status;

pub(super) fn check(call: &Call) -> Result<(), Status> {
    let errors = errors(&call.query)?;
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_kind("", "PodLogOptions", call.name(), &errors))
}

fn errors(query: &Query) -> Result<Vec<field::Error>, Status> {
    let mut errors = Vec::new();
    let mut at_least = |name: &str, least: i64, words: &str| -> Result<bool, Status> {
        let number = query.number(name)?;
        if let Some(number) = number.filter(|number| *number < least) {
            errors.push(Path::new(name).invalid(number, words));
        }
        Ok(number.is_some())
    };
    at_least("tailLines", 0, "must be greater than or equal to 0")?;
    at_least("limitBytes", 1, "must be greater than 0")?;
    if query.text("sinceTime").is_empty() {
        at_least("sinceSeconds", 1, "must be greater than 0")?;
    } else if query.number("sinceSeconds")?.is_some() {
        let words = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        // Of no field, and not of the whole either: upstream's words begin with a colon.
        let mut error = Path::root().forbidden(words);
        error.path = String::new();
        errors.push(error);
    }
    if query.get("stream").is_some() {
        errors.push(Path::new("stream").forbidden("may not be specified"));
    }
    Ok(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(query: &str) -> Vec<String> {
        let errors = errors(&Query::parse(query)).unwrap();
        errors.iter().map(|error| format!("{}: {}", error.path, error.body())).collect()
    }

    #[test]
    fn every_option_is_checked() {
        assert!(said("tailLines=0&limitBytes=1&sinceSeconds=1&follow=true").is_empty());
        assert_eq!(
            said("tailLines=-1&limitBytes=0&sinceSeconds=0"),
            [
                "tailLines: Invalid value: -1: must be greater than or equal to 0",
                "limitBytes: Invalid value: 0: must be greater than 0",
                "sinceSeconds: Invalid value: 0: must be greater than 0",
            ]
        );
        assert_eq!(
            said("sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z&stream=Stdout"),
            [
                ": Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
                "stream: Forbidden: may not be specified",
            ]
        );
    }
}
