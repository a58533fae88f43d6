//! Commands of the store to itself that stand in the log beside those of clients, and what goes
//! with a change of members.

use bytes::Bytes;

use super::ask::{member, put_member, put_text, read_all, text};
use super::level::RELEASES;
use crate::cluster::Member;
use crate::codec::{Malformed, Reader, put_u64};
use crate::mvcc::Origin;
use crate::newer::Newer;

/// The first byte of such an entry, where the others have the version of their encoding.
const SYSTEM: u8 = 0x80;
const FORMAT: u8 = 1;
/// Of what is written from level 2 on; releases that know less refuse it.
const FORMAT_RELEASES: u8 = 2;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SystemCommand {
    /// New name, address or client URLs.
    Update(Member),
    /// All members support this format of what is replicated.
    RaiseLevel(u32),
    /// The version of a member's program. From [`RELEASES`] on.
    Release { id: u64, release: String },
}

impl SystemCommand {
    /// The format level that the cluster must have before this is written.
    pub(crate) fn level(&self) -> u32 {
        match self {
            Self::Update(_) | Self::RaiseLevel(_) => 0,
            Self::Release { .. } => RELEASES,
        }
    }

    fn format(&self) -> u8 {
        match self {
            Self::Update(_) | Self::RaiseLevel(_) => FORMAT,
            Self::Release { .. } => FORMAT_RELEASES,
        }
    }
}

pub(crate) fn is_system(payload: &[u8]) -> bool {
    payload.first() == Some(&SYSTEM)
}

pub(crate) fn encode_system(origin: Origin, command: &SystemCommand) -> Vec<u8> {
    let mut out = vec![SYSTEM, command.format()];
    put_origin(&mut out, origin);
    match command {
        SystemCommand::Update(member) => {
            out.push(1);
            put_member(&mut out, member);
        }
        SystemCommand::RaiseLevel(level) => {
            out.push(2);
            put_u64(&mut out, u64::from(*level));
        }
        SystemCommand::Release { id, release } => {
            out.push(3);
            put_u64(&mut out, *id);
            put_text(&mut out, release);
        }
    }
    out
}

pub(crate) fn decode_system(payload: Bytes) -> Result<(Origin, SystemCommand), Malformed> {
    read_all(payload, |reader| {
        if reader.u8()? != SYSTEM {
            return Err(Malformed("an entry is not of the store to itself"));
        }
        let format = reader.u8()?;
        if format == 0 || format > FORMAT_RELEASES {
            return Err(Malformed("an entry has a format that this release does not read"));
        }
        let origin = read_origin(reader)?;
        let command = match reader.u8()? {
            3 if format == FORMAT_RELEASES => {
                SystemCommand::Release { id: reader.u64()?, release: text(reader)? }
            }
            _ if format != FORMAT => return Err(Malformed("an unknown command of the store")),
            1 => SystemCommand::Update(member(reader)?),
            2 => {
                let level = u32::try_from(reader.u64()?);
                let level = level.map_err(|_error| Malformed("a level is too high"))?;
                SystemCommand::RaiseLevel(level)
            }
            _ => return Err(Malformed("an unknown command of the store")),
        };
        Ok((origin, command))
    })
}

/// Whether an entry is in a format that only a later release knows.
pub(crate) fn check_format(payload: &[u8]) -> Result<(), Newer> {
    match payload {
        [SYSTEM, format, ..] => {
            Newer::check("an entry of the store to itself", *format, FORMAT_RELEASES)
        }
        [format, ..] => Newer::check("an entry of the log", *format, crate::mvcc::ENTRY_FORMAT),
        [] => Ok(()),
    }
}

/// What a change of members carries: who proposed it, and the record of who is added.
pub(crate) fn encode_context(origin: Origin, added: Option<&Member>) -> Vec<u8> {
    let mut out = vec![FORMAT];
    put_origin(&mut out, origin);
    out.push(u8::from(added.is_some()));
    if let Some(member) = added {
        put_member(&mut out, member);
    }
    out
}

pub(crate) fn decode_context(context: Bytes) -> Result<(Origin, Option<Member>), Malformed> {
    read_all(context, |reader| {
        if reader.u8()? != FORMAT {
            return Err(Malformed("a change of members has an unknown format"));
        }
        let origin = read_origin(reader)?;
        let added = if reader.bool()? { Some(member(reader)?) } else { None };
        Ok((origin, added))
    })
}

fn put_origin(out: &mut Vec<u8>, origin: Origin) {
    for number in [origin.member_id, origin.epoch, origin.number] {
        put_u64(out, number);
    }
}

fn read_origin(reader: &mut Reader) -> Result<Origin, Malformed> {
    Ok(Origin { member_id: reader.u64()?, epoch: reader.u64()?, number: reader.u64()? })
}
