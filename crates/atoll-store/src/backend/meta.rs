//! What the state says of itself: how far it has come, and who the members are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::KEYSPACES;
use crate::cluster::Member;
use crate::codec::{Malformed, Reader, put_i64, put_u64};
use crate::consensus::{Configuration, MemberChange, Position};
use crate::core::{RELEASES, put_member, put_text, read_member, text};
use crate::kv::Revision;
use crate::mvcc::Origin;
use crate::newer::Newer;

/// Format 1 knew a list of voters and nothing else of members; format 2, no releases.
const FORMAT: u8 = 3;
const FORMAT_BEFORE_RELEASES: u8 = 2;

/// The members, as the log has made them. The same on every member at the same index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Roster {
    pub(crate) configuration: Configuration,
    pub(crate) members: BTreeMap<u64, Member>,
    /// For ever: an id does not come back.
    pub(crate) removed: BTreeSet<u64>,
    /// The format of what is replicated.
    pub(crate) level: u32,
    /// The last batch of each member, by its epoch and number. What comes later with less has
    /// come twice or too late, and counts for nothing.
    pub(crate) origins: BTreeMap<u64, (u64, u64)>,
    /// The version of each member's program; from the level [`RELEASES`] on.
    pub(crate) releases: BTreeMap<u64, String>,
}

impl Roster {
    /// A cluster of one.
    pub(crate) fn sole(member: Member, level: u32) -> Self {
        let configuration = Configuration { voters: vec![member.id], learners: Vec::new() };
        let members = BTreeMap::from([(member.id, member)]);
        Self { configuration, members, level, ..Self::default() }
    }

    pub(crate) fn is_alone(&self, id: u64) -> bool {
        self.configuration.voters == [id] && self.configuration.learners.is_empty()
    }

    pub(crate) fn is_voter(&self, id: u64) -> bool {
        self.configuration.voters.contains(&id)
    }

    /// Whether a batch counts; if it does, none before it will any more.
    pub(crate) fn accept(&mut self, origin: Origin) -> bool {
        let last = self.origins.entry(origin.member_id).or_default();
        let accepted = (origin.epoch, origin.number) > *last;
        if accepted {
            *last = (origin.epoch, origin.number);
        }
        accepted
    }

    /// Takes over what consensus made of a change.
    pub(crate) fn change(
        &mut self,
        change: MemberChange,
        configuration: Configuration,
        member: Option<Member>,
    ) {
        self.configuration = configuration;
        match change {
            MemberChange::AddLearner(id) => {
                let member = member.unwrap_or_default();
                self.members.insert(id, Member { id, ..member });
            }
            MemberChange::Promote(id) => {
                self.members.entry(id).or_insert(Member { id, ..Member::default() });
            }
            MemberChange::Remove(id) => {
                self.members.remove(&id);
                self.origins.remove(&id);
                self.releases.remove(&id);
                self.removed.insert(id);
            }
        }
        let learners = &self.configuration.learners;
        for (id, member) in &mut self.members {
            member.is_learner = learners.contains(id);
        }
    }

    /// Every member can read this one; it follows from what all have.
    fn format(&self) -> u8 {
        if self.level < RELEASES { FORMAT_BEFORE_RELEASES } else { FORMAT }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let Configuration { voters, learners } = &self.configuration;
        for ids in [voters, learners] {
            put_u64(out, ids.len() as u64);
            ids.iter().for_each(|id| put_u64(out, *id));
        }
        put_u64(out, self.members.len() as u64);
        self.members.values().for_each(|member| put_member(out, member));
        put_u64(out, self.removed.len() as u64);
        self.removed.iter().for_each(|id| put_u64(out, *id));
        put_u64(out, u64::from(self.level));
        put_u64(out, self.origins.len() as u64);
        for (id, (epoch, number)) in &self.origins {
            for one in [id, epoch, number] {
                put_u64(out, *one);
            }
        }
        if self.format() > FORMAT_BEFORE_RELEASES {
            put_u64(out, self.releases.len() as u64);
            for (id, release) in &self.releases {
                put_u64(out, *id);
                put_text(out, release);
            }
        }
    }

    fn decode(reader: &mut Reader, format: u8) -> Result<Self, Malformed> {
        let mut roster = Self::default();
        let Configuration { voters, learners } = &mut roster.configuration;
        for ids in [voters, learners] {
            for _ in 0..reader.u64()? {
                ids.push(reader.u64()?);
            }
        }
        for _ in 0..reader.u64()? {
            let member = read_member(reader)?;
            roster.members.insert(member.id, member);
        }
        for _ in 0..reader.u64()? {
            roster.removed.insert(reader.u64()?);
        }
        roster.level =
            u32::try_from(reader.u64()?).map_err(|_error| Malformed("a level is too high"))?;
        for _ in 0..reader.u64()? {
            roster.origins.insert(reader.u64()?, (reader.u64()?, reader.u64()?));
        }
        if format > FORMAT_BEFORE_RELEASES {
            for _ in 0..reader.u64()? {
                roster.releases.insert(reader.u64()?, text(reader)?);
            }
        }
        Ok(roster)
    }

    /// What format 1 had, of a release that knew sole members only.
    fn decode_voters(reader: &mut Reader) -> Result<Self, Malformed> {
        let mut roster = Self::default();
        for _ in 0..reader.u64()? {
            let id = reader.u64()?;
            roster.configuration.voters.push(id);
            roster.members.insert(id, Member { id, ..Member::default() });
        }
        Ok(roster)
    }
}

/// How far the state has come, in both keyspaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) applied: Position,
    /// Continued with every entry; equal on all members that applied the same.
    pub(crate) chain: u32,
    /// The state was sent by another member and nothing has been written since.
    pub(crate) installed: bool,
    pub(crate) roster: Roster,
    /// Revision and compacted revision.
    pub(crate) keyspaces: [(Revision, Revision); KEYSPACES],
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.roster.format()];
        put_u64(&mut out, self.applied.index);
        put_u64(&mut out, self.applied.term);
        put_u64(&mut out, u64::from(self.chain));
        out.push(u8::from(self.installed));
        self.roster.encode(&mut out);
        for (revision, compacted) in self.keyspaces {
            put_i64(&mut out, revision);
            put_i64(&mut out, compacted);
        }
        out
    }

    /// Whether a later release has written it.
    pub(crate) fn check_format(file: &str, bytes: &[u8]) -> Result<(), Newer> {
        Newer::check(file, bytes.first().copied().unwrap_or(0), FORMAT)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        let format = reader.u8()?;
        if format == 0 || format > FORMAT {
            return Err(Malformed("the state has a format that this release does not read"));
        }
        let applied = Position { index: reader.u64()?, term: reader.u64()? };
        let chain = u32::try_from(reader.u64()?).unwrap_or(0);
        let (installed, roster) = match format {
            1 => (false, Roster::decode_voters(&mut reader)?),
            _ => (reader.bool()?, Roster::decode(&mut reader, format)?),
        };
        let mut keyspaces = [(1, 0); KEYSPACES];
        for keyspace in &mut keyspaces {
            *keyspace = (reader.i64()?, reader.i64()?);
        }
        Ok(Self { applied, chain, installed, roster, keyspaces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_release_before_wrote_is_read() {
        // Format 1: index 7, term 2, chain 9, the voter 5, revisions 4 and 1, compacted 3 and 0.
        let golden = [1, 7, 2, 9, 1, 5, 8, 6, 2, 0];
        let meta = Meta::decode(&golden).unwrap();
        assert_eq!(meta.applied, Position { index: 7, term: 2 });
        assert_eq!((meta.chain, meta.installed), (9, false));
        assert!(meta.roster.is_alone(5) && meta.roster.level == 0);
        assert_eq!(meta.keyspaces, [(4, 3), (1, 0)]);
        assert_eq!(Meta::decode(&meta.encode()), Ok(meta));
    }

    #[test]
    fn below_their_level_nothing_is_written_that_the_release_before_does_not_read() {
        let mut meta = Meta::decode(&[1, 7, 2, 9, 1, 5, 8, 6, 2, 0]).unwrap();
        meta.roster.releases.insert(5, "1.2.3".to_owned());
        for (level, format, kept) in [(0, 2, 0), (1, 2, 0), (2, 3, 1)] {
            meta.roster.level = level;
            let written = meta.encode();
            assert_eq!(written[0], format);
            assert_eq!(Meta::decode(&written).unwrap().roster.releases.len(), kept);
        }
        let later = Meta::check_format("state.redb", &[4, 0]).unwrap_err().to_string();
        assert!(later.contains("state.redb has the format 4") && later.contains("up to 3"));
    }

    #[test]
    fn a_batch_counts_once_and_none_before_it_afterwards() {
        let mut roster = Roster::default();
        let origin = |epoch, number| Origin { member_id: 1, epoch, number };
        assert!(roster.accept(origin(2, 1)));
        assert!(roster.accept(origin(2, 3)));
        assert!(!roster.accept(origin(2, 3)));
        assert!(!roster.accept(origin(2, 2)));
        assert!(!roster.accept(origin(1, 9)));
        assert!(roster.accept(origin(3, 1)));
    }

    #[test]
    fn a_removed_id_is_kept_and_its_records_are_not() {
        let mut roster = Roster::sole(Member { id: 1, ..Member::default() }, 1);
        let both = Configuration { voters: vec![1], learners: vec![2] };
        let member = Member { name: "b".to_owned(), ..Member::default() };
        roster.change(MemberChange::AddLearner(2), both, Some(member));
        assert!(roster.members[&2].is_learner);
        let one = Configuration { voters: vec![1], learners: vec![] };
        roster.change(MemberChange::Remove(2), one, None);
        assert!(roster.is_alone(1) && roster.removed.contains(&2) && roster.members.len() == 1);
    }
}
