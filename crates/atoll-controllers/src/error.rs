//! What can go wrong while a controller writes, and whether it is worth a word.

use atoll_informer::{Key, Outcome};
use tracing::{debug, warn};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{verb} {kind} {name}")]
    Write { verb: &'static str, kind: &'static str, name: String, source: kube::Error },
    #[error("{kind} {name} has {problem}")]
    Object { kind: &'static str, name: String, problem: String },
    #[error("{what}; the next look decides anew")]
    Stale { what: String },
}

impl Error {
    /// What the API said, when it was the API that refused.
    pub(crate) fn cause(&self) -> Option<String> {
        match self {
            Self::Write { source, .. } => Some(words(source)),
            _ => None,
        }
    }

    /// Somebody else wrote first, or removed the object: the next look decides anew.
    fn is_race(&self) -> bool {
        match self {
            Self::Write { source: kube::Error::Api(status), .. } => {
                matches!(status.code, 404 | 409)
            }
            Self::Stale { .. } => true,
            _ => false,
        }
    }
}

/// The API's own words where it refused, as events and conditions show them.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the API refused because the object's namespace is being deleted.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// For `map_err`: names the write that failed.
pub(crate) fn failed(
    verb: &'static str,
    kind: &'static str,
    name: impl Into<String>,
) -> impl FnOnce(kube::Error) -> Error {
    let name = name.into();
    move |source| Error::Write { verb, kind, name, source }
}

/// Turns a deletion's "not found" into success: the object is as gone as it was to be.
pub(crate) fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The outcome of a pass over `key`; failures are logged here and nowhere else.
pub(crate) fn settle(
    controller: &'static str,
    key: &Key,
    result: Result<Outcome, Error>,
) -> Outcome {
    match result {
        Ok(outcome) => outcome,
        Err(error) if error.is_race() => {
            debug!(controller, %key, %error, "lost a race; looking again");
            Outcome::Retry
        }
        Err(error) => {
            let cause = error.cause();
            warn!(controller, %key, %error, cause, "pass failed; retrying with backoff");
            Outcome::Retry
        }
    }
}
