//! Who an image's user is, by the image's own files.

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Longest `/etc/passwd` or `/etc/group` that is read.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Numbers for a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    /// Groups that name the user as a member.
    pub additional_gids: Vec<u32>,
}

/// The image names a user or group that it does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {user}: no matching entries in passwd file")]
    NoUser { user: String },
    #[error("unable to find group {group}: no matching entries in group file")]
    NoGroup { group: String },
}

/// Resolves `""`, `1000`, `node`, `1000:1000`, `node:staff` against the files of a mounted
/// root. Symlinks in it do not lead out.
pub fn resolve_user(rootfs: &Path, user: &str) -> Result<ResolvedUser, UserError> {
    let passwd = read_beneath(rootfs, "etc/passwd");
    let group = read_beneath(rootfs, "etc/group");
    resolve(user, &passwd, &group)
}

fn read_beneath(rootfs: &Path, path: &str) -> String {
    let read = || -> std::io::Result<String> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(rootfs, flags, Mode::empty())?;
        let file = rustix::fs::openat2(
            &root,
            path,
            // A FIFO in the image must not make the agent wait.
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )?;
        let mut text = Vec::new();
        std::fs::File::from(file).take(FILE_BYTES_MAX).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    // An image without the file has no names, which is common.
    read().unwrap_or_default()
}

fn fields(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn resolve(user: &str, passwd: &str, group: &str) -> Result<ResolvedUser, UserError> {
    let (name, wanted_group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry = fields(passwd).find(|f| {
        f.first() == Some(&name) || (f.get(2) == Some(&name) && name.parse::<u32>().is_ok())
    });
    let number = |field: Option<&&str>| field.and_then(|text| text.parse::<u32>().ok());
    let (uid, gid) = match (&entry, name.parse::<u32>()) {
        (Some(f), _) => (number(f.get(2)).unwrap_or(0), number(f.get(3)).unwrap_or(0)),
        (None, Ok(uid)) => (uid, 0),
        (None, Err(_)) => return Err(UserError::NoUser { user: name.to_owned() }),
    };
    let Some(wanted) = wanted_group.filter(|g| !g.is_empty()) else {
        let login = entry.as_ref().and_then(|f| f.first().copied()).unwrap_or(name);
        let additional_gids = fields(group)
            .filter(|f| f.get(3).is_some_and(|members| members.split(',').any(|m| m == login)))
            .filter_map(|f| number(f.get(2)))
            .filter(|other| *other != gid)
            .collect();
        return Ok(ResolvedUser { uid, gid, additional_gids });
    };
    let found = fields(group).find(|f| f.first() == Some(&wanted)).and_then(|f| number(f.get(2)));
    let gid = found
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| UserError::NoGroup { group: wanted.to_owned() })?;
    Ok(ResolvedUser { uid, gid, additional_gids: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1000::/home/node:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nnode:x:1000:\nvideo:x:44:node,other\nstaff:x:50:\n";

    fn numbers(user: &str) -> (u32, u32, Vec<u32>) {
        let user = resolve(user, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.additional_gids)
    }

    #[test]
    fn resolves_every_form() {
        assert_eq!(numbers(""), (0, 0, vec![]));
        assert_eq!(numbers("node"), (1000, 1000, vec![44]));
        assert_eq!(numbers("1000"), (1000, 1000, vec![44]));
        assert_eq!(numbers("1234"), (1234, 0, vec![]));
        assert_eq!(numbers("node:staff"), (1000, 50, vec![]));
        assert_eq!(numbers("7:8"), (7, 8, vec![]));
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(matches!(resolve("nobody", PASSWD, GROUP), Err(UserError::NoUser { .. })));
        assert!(matches!(resolve("node:x", PASSWD, GROUP), Err(UserError::NoGroup { .. })));
    }
}
