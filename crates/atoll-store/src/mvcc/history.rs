//! The kept versions of one key, without their values.

use super::RevKey;
use crate::kv::{LeaseId, Revision};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) at: RevKey,
    pub(crate) create_revision: Revision,
    pub(crate) version: i64,
    pub(crate) lease: LeaseId,
    pub(crate) value_bytes: u32,
    pub(crate) tombstone: bool,
}

/// Oldest first. Most keys have one version most of the time, so that one costs no allocation.
#[derive(Debug, Clone)]
pub(crate) enum History {
    One(Version),
    Many(Vec<Version>),
}

impl History {
    pub(crate) fn versions(&self) -> &[Version] {
        match self {
            Self::One(version) => std::slice::from_ref(version),
            Self::Many(versions) => versions,
        }
    }

    pub(crate) fn push(&mut self, version: Version) {
        match self {
            Self::One(first) => *self = Self::Many(vec![*first, version]),
            Self::Many(versions) => versions.push(version),
        }
    }

    /// What a read at `revision` sees: not a deleted key.
    pub(crate) fn seen_at(&self, revision: Revision) -> Option<&Version> {
        self.newest_at(revision).filter(|version| !version.tombstone)
    }

    /// The newest version, if the key is not deleted.
    pub(crate) fn live(&self) -> Option<&Version> {
        self.versions().last().filter(|version| !version.tombstone)
    }

    fn newest_at(&self, revision: Revision) -> Option<&Version> {
        let versions = self.versions();
        let after = versions.partition_point(|version| version.at.main <= revision);
        after.checked_sub(1).map(|position| &versions[position])
    }

    /// The version that the one at `at` replaced, if that was not a deletion.
    pub(crate) fn replaced_by(&self, at: RevKey) -> Option<&Version> {
        let versions = self.versions();
        let position = versions.partition_point(|version| version.at < at);
        position.checked_sub(1).map(|before| &versions[before]).filter(|version| !version.tombstone)
    }

    /// Drops what no read at or after `revision` sees, and says what that was. A deletion at
    /// exactly `revision` stays, for the watch that starts there.
    pub(crate) fn compact(&mut self, revision: Revision, dropped: &mut Vec<Version>) {
        let versions = self.versions();
        let after = versions.partition_point(|version| version.at.main <= revision);
        let Some(newest) = after.checked_sub(1) else { return };
        let keep_newest = !versions[newest].tombstone || versions[newest].at.main == revision;
        let keep_from = if keep_newest { newest } else { newest + 1 };
        dropped.extend_from_slice(&versions[..keep_from]);
        let kept = &versions[keep_from..];
        *self = match kept {
            [one] => Self::One(*one),
            many => Self::Many(many.to_vec()),
        };
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.versions().is_empty()
    }
}
