//! What is recorded while a store is used.

/// What a client asked and was told. Times are numbers of one clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub asked_at: u64,
    /// `u64::MAX` when there was no answer.
    pub answered_at: u64,
    pub ask: Ask,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// All of it at one revision, if the guarded key was last changed at that revision (0: does
    /// not exist). Values are never written twice.
    Write {
        guard: Option<(String, i64)>,
        puts: Vec<(String, String)>,
        delete: Option<String>,
    },
    Read {
        range: Range,
        how: How,
    },
}

/// Which keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    Key(String),
    /// The empty prefix is that of all keys.
    Prefix(String),
}

impl Range {
    pub fn all() -> Self {
        Self::Prefix(String::new())
    }

    pub fn holds(&self, key: &str) -> bool {
        match self {
            Self::Key(own) => own == key,
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Linearizable.
    Fresh,
    /// It may be behind.
    Stale,
    /// As it was at a revision.
    At(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Written {
        revision: i64,
        succeeded: bool,
        deleted: u64,
    },
    Found {
        revision: i64,
        found: Vec<Found>,
    },
    /// It may have happened.
    Unknown,
    /// It has not happened.
    Refused,
}

impl Outcome {
    pub fn revision(&self) -> Option<i64> {
        match self {
            Self::Written { revision, .. } | Self::Found { revision, .. } => Some(*revision),
            Self::Unknown | Self::Refused => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub key: String,
    pub value: String,
    pub changed_at: i64,
}

/// What a watcher was told, from its first revision on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub range: Range,
    pub start: i64,
    pub batches: Vec<Batch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Everything up to here has been sent.
    pub revision: i64,
    pub changes: Vec<Change>,
    /// What stood under the key of each change before, if that was asked for.
    pub before: Option<Vec<Option<Found>>>,
}

/// One key at one revision; `None` is a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub revision: i64,
    pub key: String,
    pub value: Option<String>,
}

/// A lease and the keys that were put on it, which are put on no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub id: i64,
    pub keys: Vec<String>,
    /// Before this it cannot have run out: when it was last asked to be kept alive, of the times
    /// that were answered, and its time to live.
    pub alive_until: u64,
    /// When it was asked to end.
    pub revoked_at: Option<u64>,
}
