//! The format level of what is replicated: when it rises, and who may not take part.
//!
//! What is new in a release is written only once the cluster's level says that every member reads
//! it. Until then a new release writes exactly what the one before wrote, and can be taken back.

use std::time::Duration;

use super::system::{SystemCommand, check_format, decode_system, is_system};
use super::{AskReply, Core};
use crate::consensus::{EntryKind, LogEntry};
use crate::newer::Newer;
use crate::shared::{LEVEL, LEVEL_MIN};

/// At this level the log and the state name the release of each member.
pub(crate) const RELEASES: u32 = 2;
const REPLICATED: &str = "what the servers replicate";
/// After the others have gone; one that does not lead yet looks again.
const LOOK_AFTER: Duration = Duration::from_millis(100);
/// A release's name is cut here.
const RELEASE_BYTES_MAX: usize = 64;

impl Core {
    /// What a cluster is at must be within what this server supports.
    pub(super) fn check_level(&self, level: u32) -> Result<(), Newer> {
        Newer::check(REPLICATED, level, self.config.level_max)
    }

    /// Raises the level when all members support more, and tells the cluster of their releases; one
    /// step at a time, and only the leader.
    pub(super) fn tend_level(&mut self) {
        if !self.standing.is_settled || self.waiting_since().is_some() {
            return;
        }
        if let Some(command) = self.next_level_step() {
            self.propose_system(&command, AskReply::Nobody);
        }
    }

    fn next_level_step(&self) -> Option<SystemCommand> {
        let supported = self.supported_by_all().unwrap_or(0);
        if supported > self.roster.level {
            return Some(SystemCommand::RaiseLevel(supported));
        }
        if self.roster.level < RELEASES {
            return None;
        }
        self.roster.members.keys().find_map(|id| {
            let release = self.release_of(*id).filter(|release| !release.is_empty())?;
            let known = self.roster.releases.get(id) == Some(&release);
            (!known).then_some(SystemCommand::Release { id: *id, release })
        })
    }

    /// `None` while one of the members has not been heard of: nobody knows what runs there.
    fn supported_by_all(&self) -> Option<u32> {
        let supported = |id: &u64| match *id == self.member_id {
            true => Some(self.config.level_max),
            false => self.shared.cluster.said(*id).map(|said| said.level),
        };
        let levels: Option<Vec<u32>> = self.roster.members.keys().map(supported).collect();
        levels?.into_iter().min().map(|least| least.min(self.config.level_max))
    }

    fn release_of(&self, id: u64) -> Option<String> {
        let release = match id == self.member_id {
            true => self.config.release.clone(),
            false => self.shared.cluster.said(id)?.release,
        };
        Some(release[..release.floor_char_boundary(RELEASE_BYTES_MAX)].to_owned())
    }

    /// A sole member has no ticks on which it would be done, and nobody to wait for.
    pub(super) fn tend_level_alone(&mut self) {
        while self.writes_here() && self.standing.is_leader {
            let before = (self.roster.level, self.roster.releases.clone());
            self.tend_level();
            self.run();
            if self.failed() || before == (self.roster.level, self.roster.releases.clone()) {
                return;
            }
        }
    }

    /// The same when the others have gone.
    pub(super) fn tend_level_left(&mut self) {
        if self.level_open && self.writes_here() && self.standing.is_settled {
            self.level_open = false;
            self.tend_level_alone();
        }
    }

    /// When that is to be done.
    pub(super) fn next_level_look(&self, now: Duration) -> Option<Duration> {
        (self.level_open && self.writes_here()).then_some(now + LOOK_AFTER)
    }

    pub(super) fn publish_formats(&self) {
        self.shared.cluster.set_formats(self.roster.level, &self.roster.releases);
    }
}

/// What a log holds must be within what this server supports, whether it is committed or not.
pub(super) fn check_entries(entries: &[LogEntry], level_max: u32) -> Result<(), Newer> {
    for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Normal) {
        check_format(&entry.payload)?;
        let raised = is_system(&entry.payload)
            .then(|| decode_system(entry.payload.clone()).ok().map(|(_, command)| command));
        if let Some(Some(SystemCommand::RaiseLevel(level))) = raised {
            Newer::check(REPLICATED, level, level_max)?;
        }
    }
    Ok(())
}

/// What a folder is told to support must be something that this release does.
pub(super) fn check_configured(level_max: u32) -> Result<(), String> {
    if (LEVEL_MIN..=LEVEL).contains(&level_max) {
        return Ok(());
    }
    Err(format!(
        "the format level cannot be held at {level_max}: this release knows {LEVEL_MIN} to {LEVEL}"
    ))
}
