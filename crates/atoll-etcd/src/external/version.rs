//! What an etcd can do, by its version.

use std::fmt;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl EtcdVersion {
    /// Older ones have no fragments of watch responses.
    pub(super) const OLDEST: Self = Self::new(3, 4, 0);

    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// `3.5.1`, `3.6.0-rc.1`, `3.4.23+git`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers.split('.').map(|part| part.parse().ok());
        let version = Self::new(parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(version)
    }

    /// The first release of each line with something: of 3.4, of 3.5, and all later lines.
    fn since(self, of_3_4: u32, of_3_5: u32) -> bool {
        match (self.major, self.minor) {
            (3, 4) => self.patch >= of_3_4,
            (3, 5) => self.patch >= of_3_5,
            _ => self > Self::OLDEST,
        }
    }

    /// Whether a watch stream that is asked for its progress answers in step with its events,
    /// and answers even if it has had none. Kubernetes draws the line at the same releases.
    pub(super) fn reports_progress(self) -> bool {
        self.since(31, 13)
    }

    /// What this release lacks of what we would like, in words.
    pub(super) fn lacks(self) -> Vec<&'static str> {
        let mut lacks = Vec::new();
        if self < Self::new(3, 5, 0) {
            lacks.push("etcd before 3.5 gets no fixes any more: plan its upgrade");
        }
        if !self.since(24, 8) {
            lacks.push(
                "its watches may send an event twice (fixed in 3.4.24 and 3.5.8); the second is \
                 dropped",
            );
        }
        if !self.reports_progress() {
            lacks.push(
                "it cannot be relied on to report a watch's progress (fixed in 3.4.31 and \
                 3.5.13): consistent lists write a key each to learn it, and watches read the \
                 whole cluster's keys",
            );
            lacks.push(
                "a watch that is behind a compaction may miss events (fixed in 3.4.31 and 3.5.13)",
            );
        }
        if !self.since(36, 18) {
            lacks.push(
                "a watch opened at the very revision of a compaction may miss a deletion (fixed \
                 in 3.4.36 and 3.5.18)",
            );
        }
        if !self.since(38, 22) {
            lacks.push(
                "a watch from a future revision may send older events (fixed in 3.4.38 and \
                 3.5.22); they are dropped",
            );
        }
        lacks
    }
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_asked_for_only_where_it_is_right() {
        let reports = |text: &str| EtcdVersion::parse(text).unwrap().reports_progress();
        for old in ["3.4.23", "3.4.30", "3.5.1", "3.5.12"] {
            assert!(!reports(old), "{old}");
        }
        for new in ["3.4.31", "3.5.13", "3.6.0-rc.1", "3.7.1", "4.0.0"] {
            assert!(reports(new), "{new}");
        }
        assert_eq!(EtcdVersion::parse("3.6.15").unwrap().lacks(), [""; 0]);
        assert_eq!(EtcdVersion::parse("3.4.23").unwrap().lacks().len(), 6);
    }

    #[test]
    fn what_is_no_version_is_none() {
        for text in ["", "3", "3.5", "3.5.x", "3.5.1.2", "v3.5.1"] {
            assert_eq!(EtcdVersion::parse(text), None, "{text}");
        }
    }
}
