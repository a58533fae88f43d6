//! Reads an archive's members with their extended headers, within bounds.
//!
//! The tar crate reads long names and PAX records into memory at whatever length the
//! archive claims; here they are read by hand, so that a claim of gigabytes costs nothing.

use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use tar::{EntryType, PaxExtensions};

use super::UnpackError;

/// Longest extended header.
const EXTENDED_BYTES_MAX: u64 = 1 << 20;

/// One file of an archive.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: PathBuf,
    pub(super) link: PathBuf,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) device: (u32, u32),
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// What precedes a member and belongs to it.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(String, Vec<u8>)>,
}

fn damaged(error: io::Error) -> UnpackError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => UnpackError::Hostile(error.to_string()),
        _ => UnpackError::Damaged(error),
    }
}

fn broken(what: &str) -> UnpackError {
    UnpackError::Damaged(io::Error::new(io::ErrorKind::InvalidData, what.to_owned()))
}

/// Calls `visit` for every member in order.
pub(super) fn each(
    archive: &mut impl Read,
    mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let mut extended = Extended::default();
    loop {
        let Some(header) = next_header(archive)? else { return Ok(()) };
        let size = number(header.entry_size(), &header.as_old().size)?;
        let kind = header.entry_type();
        match kind {
            EntryType::GNULongName => extended.name = Some(long_text(archive, size)?),
            EntryType::GNULongLink => extended.link = Some(long_text(archive, size)?),
            EntryType::XHeader => extended.pax = pax(&extended_bytes(archive, size)?)?,
            EntryType::XGlobalHeader => {
                extended_bytes(archive, size)?;
            }
            _ => {
                let mut member = member(&header, std::mem::take(&mut extended), kind)?;
                let stored = stored_bytes(&member);
                if stored == 0 {
                    member.size = 0;
                }
                let mut content = archive.by_ref().take(stored);
                visit(&member, &mut content)?;
                let left = content.limit();
                let skipped =
                    io::copy(&mut archive.by_ref().take(left), &mut io::sink()).map_err(damaged)?;
                if skipped < left {
                    return Err(broken("it ends in the middle of a file"));
                }
                skip_padding(archive, stored)?;
            }
        }
    }
}

/// Directories and links may claim a size, but nothing is stored for them.
fn stored_bytes(member: &Member) -> u64 {
    match member.kind {
        EntryType::Regular | EntryType::Continuous => member.size,
        EntryType::Directory
        | EntryType::Symlink
        | EntryType::Link
        | EntryType::Char
        | EntryType::Block
        | EntryType::Fifo => 0,
        _ => member.size,
    }
}

/// `None` at the end: two blocks of zeroes, or no more bytes.
fn next_header(archive: &mut impl Read) -> Result<Option<tar::Header>, UnpackError> {
    let mut header = tar::Header::new_old();
    let block = header.as_mut_bytes();
    let mut filled = 0;
    while filled < block.len() {
        match archive.read(&mut block[filled..]).map_err(damaged)? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(broken("it ends in the middle of a header")),
            length => filled += length,
        }
    }
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let claimed = header.cksum().map_err(damaged)?;
    let sum: u32 = header
        .as_bytes()
        .iter()
        .enumerate()
        .map(|(i, byte)| if (148..156).contains(&i) { 32 } else { u32::from(*byte) })
        .sum();
    if claimed != sum {
        return Err(broken("a header's checksum is wrong"));
    }
    Ok(Some(header))
}

fn skip_padding(archive: &mut impl Read, size: u64) -> Result<(), UnpackError> {
    let padding = (512 - size % 512) % 512;
    io::copy(&mut archive.by_ref().take(padding), &mut io::sink()).map_err(damaged)?;
    Ok(())
}

fn extended_bytes(archive: &mut impl Read, size: u64) -> Result<Vec<u8>, UnpackError> {
    if size > EXTENDED_BYTES_MAX {
        return Err(UnpackError::Hostile(format!("it has an extended header of {size} bytes")));
    }
    let mut bytes = Vec::new();
    archive.by_ref().take(size).read_to_end(&mut bytes).map_err(damaged)?;
    if (bytes.len() as u64) < size {
        return Err(broken("it ends in the middle of an extended header"));
    }
    skip_padding(archive, size)?;
    Ok(bytes)
}

fn long_text(archive: &mut impl Read, size: u64) -> Result<Vec<u8>, UnpackError> {
    let mut bytes = extended_bytes(archive, size)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn pax(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, UnpackError> {
    let mut records = Vec::new();
    for record in PaxExtensions::new(bytes) {
        let record = record.map_err(damaged)?;
        let key = record.key().map_err(|_utf8| broken("an extended header's key is no text"))?;
        records.push((key.to_owned(), record.value_bytes().to_vec()));
    }
    Ok(records)
}

fn member(
    header: &tar::Header,
    extended: Extended,
    kind: EntryType,
) -> Result<Member, UnpackError> {
    let path_of = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let id = |id: u64| -> Result<u32, UnpackError> {
        u32::try_from(id).map_err(|_large| broken("an owner's number is too large"))
    };
    let raw = header.as_old();
    let mut member = Member {
        kind: if kind == EntryType::Regular && header.path_bytes().ends_with(b"/") {
            // Archives from before there was a kind for directories.
            EntryType::Directory
        } else {
            kind
        },
        path: path_of(extended.name.unwrap_or_else(|| header.path_bytes().into_owned())),
        link: path_of(
            extended
                .link
                .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
                .unwrap_or_default(),
        ),
        size: number(header.entry_size(), &raw.size)?,
        mode: number(header.mode(), &raw.mode)?,
        uid: id(number(header.uid(), &raw.uid)?)?,
        gid: id(number(header.gid(), &raw.gid)?)?,
        mtime: number(header.mtime(), &raw.mtime)?.try_into().unwrap_or(0),
        device: (
            header.device_major().ok().flatten().unwrap_or(0),
            header.device_minor().ok().flatten().unwrap_or(0),
        ),
        xattrs: Vec::new(),
    };
    for (key, value) in extended.pax {
        apply(&mut member, &key, value)?;
    }
    Ok(member)
}

/// A field that was left blank is zero, as every other reader has it.
fn number<T: Default>(parsed: io::Result<T>, field: &[u8]) -> Result<T, UnpackError> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Ok(T::default());
    }
    parsed.map_err(damaged)
}

/// A PAX record overrules the header.
fn apply(member: &mut Member, key: &str, value: Vec<u8>) -> Result<(), UnpackError> {
    let path_of = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let number = |value: &[u8]| -> Result<u64, UnpackError> {
        let text = std::str::from_utf8(value).unwrap_or_default();
        // Times carry fractions.
        let whole = text.split('.').next().unwrap_or_default().trim_start_matches('-');
        whole.parse().map_err(|_digits| broken("an extended header holds no number"))
    };
    let id = |value: &[u8]| -> Result<u32, UnpackError> {
        u32::try_from(number(value)?).map_err(|_large| broken("an owner's number is too large"))
    };
    match key {
        "path" => member.path = path_of(value),
        "linkpath" => member.link = path_of(value),
        "size" => member.size = number(&value)?,
        "uid" => member.uid = id(&value)?,
        "gid" => member.gid = id(&value)?,
        "mtime" => {
            let seconds = i64::try_from(number(&value)?).unwrap_or(0);
            member.mtime = if value.starts_with(b"-") { -seconds } else { seconds };
        }
        _ if key.starts_with("GNU.sparse.") => {
            return Err(UnpackError::Hostile(
                "it holds sparse files, which image builders do not write".to_owned(),
            ));
        }
        _ => {
            if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                member.xattrs.push((name.to_owned(), value));
            }
        }
    }
    Ok(())
}
