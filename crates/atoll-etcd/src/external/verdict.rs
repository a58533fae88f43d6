//! What an etcd's refusals mean, by their texts, which are part of its API.

use atoll_store::kv::{Error, LeaseId, Revision};
use tonic::{Code, Status};

use super::connection::Lost;

/// Whether a request may be sent again when nobody knows whether it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Repeatable,
    Once,
}

/// What became of a request that was not answered as hoped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The answer would be the same everywhere.
    Refused,
    /// It was certainly not carried out; another member, or the same later, may do it.
    NotDone,
    NoLeader,
    /// It may have been carried out.
    Unknown,
}

/// Why a call failed in the end.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    Refused(Status),
    NoLeader,
    Timeout { maybe_applied: bool },
    Unavailable { detail: String },
}

/// What the call was about, for the error.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Subject {
    pub(super) requested: Revision,
    pub(super) bytes: u64,
    pub(super) operations: usize,
    pub(super) lease: LeaseId,
    pub(super) ttl: i64,
}

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
/// etcd's defaults for `--max-request-bytes` and `--max-txn-ops`; it does not tell its own.
const REQUEST_BYTES_MAX: u64 = 1_572_864;
const TXN_OPERATIONS_MAX: usize = 128;

pub(super) fn verdict(status: &Status) -> Verdict {
    if let Some(lost) = lost(status) {
        return if lost.sent { Verdict::Unknown } else { Verdict::NotDone };
    }
    match status.message() {
        "etcdserver: no leader" => Verdict::NoLeader,
        "etcdserver: too many requests" | "etcdserver: rpc not supported for learner" => {
            Verdict::NotDone
        }
        text if text.starts_with("etcdserver: request timed out") => Verdict::Unknown,
        "etcdserver: leader changed"
        | "etcdserver: server stopped"
        | "etcdserver: request canceled"
        | "etcdserver: not leader"
        | "etcdserver: context deadline exceeded" => Verdict::Unknown,
        text if text.starts_with("etcdserver: ") => Verdict::Refused,
        _ => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
                Verdict::Unknown
            }
            // An answer that ended in the middle has a cause; one that etcd gave has none.
            Code::Unknown | Code::Internal if std::error::Error::source(status).is_some() => {
                Verdict::Unknown
            }
            _ => Verdict::Refused,
        },
    }
}

fn lost(status: &Status) -> Option<&Lost> {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(lost) = error.downcast_ref() {
            return Some(lost);
        }
        cause = error.source();
    }
    None
}

impl Failure {
    pub(super) fn is_compacted(&self) -> bool {
        matches!(self, Self::Refused(status) if status.message() == COMPACTED)
    }

    pub(super) fn is_future(&self) -> bool {
        matches!(self, Self::Refused(status) if status.message() == FUTURE)
    }

    pub(super) fn is_lease_exists(&self) -> bool {
        matches!(self, Self::Refused(status)
            if status.message() == "etcdserver: lease already exists")
    }

    /// `known` is the oldest readable revision, or the present one, where the refusal is about
    /// revisions.
    pub(super) fn into_error(self, subject: &Subject, known: Option<Revision>) -> Error {
        let status = match self {
            Self::Refused(status) => status,
            Self::NoLeader => return Error::NoLeader,
            Self::Timeout { maybe_applied } => return Error::Timeout { maybe_applied },
            Self::Unavailable { detail } => return Error::Unavailable { detail },
        };
        let requested = subject.requested;
        match status.message() {
            COMPACTED => Error::Compacted { requested, compacted: known.unwrap_or(requested + 1) },
            FUTURE => Error::Future { requested, current: known.unwrap_or(requested - 1) },
            "etcdserver: mvcc: database space exceeded" => Error::NoSpace {
                detail: "the etcd is full; compact and defragment it, or raise its \
                         --quota-backend-bytes, and disarm its alarm"
                    .to_owned(),
            },
            "etcdserver: request is too large" => {
                Error::TooLarge { bytes: subject.bytes, limit_bytes: REQUEST_BYTES_MAX }
            }
            "etcdserver: duplicate key given in txn request" => Error::DuplicateKey,
            "etcdserver: too many operations in txn request" => Error::TooManyOperations {
                operations: subject.operations,
                limit: TXN_OPERATIONS_MAX,
            },
            "etcdserver: requested lease not found" => Error::LeaseNotFound { id: subject.lease },
            "etcdserver: lease already exists" => Error::LeaseExists { id: subject.lease },
            "etcdserver: too large lease TTL" => Error::LeaseTtlTooLarge { ttl: subject.ttl },
            "etcdserver: key is not provided" => Error::EmptyKey,
            "etcdserver: key not found" => Error::KeyNotFound,
            text => match too_large(text) {
                Some((bytes, limit_bytes)) => Error::TooLarge { bytes, limit_bytes },
                None => Error::Unavailable { detail: refusal(&status) },
            },
        }
    }
}

/// gRPC's own limit: `grpc: received message larger than max (1600017 vs. 1572864)`.
fn too_large(text: &str) -> Option<(u64, u64)> {
    let text = text.strip_prefix("grpc: received message")?;
    let (bytes, limit) = text.split_once('(')?.1.strip_suffix(')')?.split_once(" vs. ")?;
    Some((bytes.parse().ok()?, limit.parse().ok()?))
}

fn refusal(status: &Status) -> String {
    let text = status.message();
    let remedy = match status.code() {
        Code::PermissionDenied => "; give the user of our client certificate the whole prefix",
        Code::Unauthenticated => "; it wants a user that our client certificate does not name",
        Code::DataLoss => "; restore the etcd first",
        Code::Unimplemented => "; is it an etcd of 3.4 or later?",
        _ => "",
    };
    if text == "etcdserver: user name is empty" {
        return format!("the etcd refused: {text}; it wants a client certificate with a user");
    }
    format!("the etcd refused: {text}{remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_certainly_not_done_is_tried_again_elsewhere() {
        let said = |code, text: &str| verdict(&Status::new(code, text));
        assert_eq!(said(Code::Unavailable, "etcdserver: no leader"), Verdict::NoLeader);
        assert_eq!(
            said(Code::ResourceExhausted, "etcdserver: too many requests"),
            Verdict::NotDone
        );
        for text in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: leader changed",
            "etcdserver: server stopped",
            "the connection is closing",
        ] {
            assert_eq!(said(Code::Unavailable, text), Verdict::Unknown, "{text}");
        }
        assert_eq!(
            said(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
            Verdict::Refused
        );
        assert_eq!(said(Code::Unimplemented, "unknown service"), Verdict::Refused);
    }

    #[test]
    fn refusals_become_the_errors_that_the_embedded_store_gives() {
        let subject = Subject { requested: 7, bytes: 9, operations: 200, lease: 3, ttl: 11 };
        let error = |text: &str| {
            Failure::Refused(Status::new(Code::Unknown, text)).into_error(&subject, Some(8))
        };
        assert_eq!(error(COMPACTED), Error::Compacted { requested: 7, compacted: 8 });
        assert_eq!(error(FUTURE), Error::Future { requested: 7, current: 8 });
        assert_eq!(
            error("etcdserver: request is too large"),
            Error::TooLarge { bytes: 9, limit_bytes: 1_572_864 }
        );
        assert_eq!(
            error("grpc: received message larger than max (20 vs. 10)"),
            Error::TooLarge { bytes: 20, limit_bytes: 10 }
        );
        assert_eq!(
            error("etcdserver: too many operations in txn request"),
            Error::TooManyOperations { operations: 200, limit: 128 }
        );
        assert_eq!(error("etcdserver: requested lease not found"), Error::LeaseNotFound { id: 3 });
        assert!(matches!(
            error("etcdserver: mvcc: database space exceeded"),
            Error::NoSpace { .. }
        ));
        assert!(matches!(error("etcdserver: permission denied"), Error::Unavailable { .. }));
    }
}
