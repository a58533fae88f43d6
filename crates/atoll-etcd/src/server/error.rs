//! etcd's codes and texts: clients match both.

use atoll_store::kv::Error;
use tonic::{Code, Status};

/// A refusal that is always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(Code, &'static str);

impl Refusal {
    pub(super) fn status(self) -> Status {
        Status::new(self.0, self.1)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.status()
    }
}

macro_rules! refusals {
    ($($name:ident: $code:ident, $text:literal;)*) => {
        $(pub(super) const $name: Refusal = Refusal(Code::$code, concat!("etcdserver: ", $text));)*
    };
}

refusals! {
    EMPTY_KEY: InvalidArgument, "key is not provided";
    KEY_NOT_FOUND: InvalidArgument, "key not found";
    VALUE_PROVIDED: InvalidArgument, "value is provided";
    LEASE_PROVIDED: InvalidArgument, "lease is provided";
    TOO_MANY_OPERATIONS: InvalidArgument, "too many operations in txn request";
    DUPLICATE_KEY: InvalidArgument, "duplicate key given in txn request";
    INVALID_SORT: InvalidArgument, "invalid sort option";
    INVALID_COMPARE: InvalidArgument, "invalid compare in txn request";
    INVALID_ALARM_ACTION: InvalidArgument, "invalid action of an alarm request";
    TOO_LARGE: InvalidArgument, "request is too large";
    COMPACTED: OutOfRange, "mvcc: required revision has been compacted";
    FUTURE: OutOfRange, "mvcc: required revision is a future revision";
    NO_SPACE: ResourceExhausted, "mvcc: database space exceeded";
    LEASE_NOT_FOUND: NotFound, "requested lease not found";
    LEASE_EXISTS: FailedPrecondition, "lease already exists";
    LEASE_TTL_TOO_LARGE: OutOfRange, "too large lease TTL";
    NO_LEADER: Unavailable, "no leader";
    NOT_FOR_LEARNER: FailedPrecondition, "rpc not supported for learner";
    CORRUPT: DataLoss, "corrupt cluster";
    TIMEOUT: Unavailable, "request timed out";
    STOPPED: Unavailable, "server stopped";
    MEMBER_NOT_FOUND: NotFound, "member not found";
    MEMBER_NOT_LEARNER: FailedPrecondition, "can only promote a learner member";
    TOO_MANY_LEARNERS: FailedPrecondition, "too many learner members in cluster";
    LEARNER_BEHIND: FailedPrecondition,
        "can only promote a learner member which is in sync with leader";
    UNHEALTHY: Unavailable, "unhealthy cluster";
    PEER_URL_EXISTS: FailedPrecondition, "Peer URLs already exists";
    BAD_URLS: InvalidArgument, "given member URLs are invalid";
    NOT_ENOUGH_STARTED: FailedPrecondition,
        "re-configuration failed due to not enough started members";
    NOT_LEADER: FailedPrecondition, "not leader";
    TRANSFER_TIMEOUT: Unavailable, "request timed out, leader transfer took too long";
    BAD_TRANSFEREE: FailedPrecondition, "bad leader transferee";
    DOWNGRADE_FORMAT: InvalidArgument, "wrong downgrade target version format";
    DOWNGRADE_TARGET: InvalidArgument, "invalid downgrade target version";
    NO_DOWNGRADE: FailedPrecondition, "no inflight downgrade job";
    AUTH_NOT_ENABLED: FailedPrecondition, "authentication is not enabled";
    NO_ROOT: FailedPrecondition, "root user does not exist";
    USER_EMPTY: InvalidArgument, "user name is empty";
    USER_NOT_FOUND: FailedPrecondition, "user name not found";
    ROLE_EMPTY: InvalidArgument, "role name is empty";
    ROLE_NOT_FOUND: FailedPrecondition, "role name not found";
    NO_USERS: Unimplemented,
        "users and roles are not kept here; clients are told apart by their certificates";
}

pub(super) fn status(error: &Error) -> Status {
    let refusal = match error {
        Error::Compacted { .. } => COMPACTED,
        Error::Future { .. } => FUTURE,
        // How many servers it sees stands in its log; clients know this text.
        Error::NoLeader | Error::NoQuorum { .. } => NO_LEADER,
        Error::Timeout { .. } => TIMEOUT,
        Error::NoSpace { .. } => NO_SPACE,
        Error::TooLarge { .. } => TOO_LARGE,
        Error::DuplicateKey => DUPLICATE_KEY,
        Error::TooManyOperations { .. } => TOO_MANY_OPERATIONS,
        Error::LeaseNotFound { .. } => LEASE_NOT_FOUND,
        Error::LeaseExists { .. } => LEASE_EXISTS,
        Error::LeaseTtlTooLarge { .. } => LEASE_TTL_TOO_LARGE,
        Error::EmptyKey => EMPTY_KEY,
        Error::KeyNotFound => KEY_NOT_FOUND,
        // What etcd has no word for: its own words, in etcd's form.
        other => return Status::unavailable(format!("etcdserver: {other}")),
    };
    refusal.status()
}
