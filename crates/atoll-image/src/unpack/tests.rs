//! Layers, harmless and hostile, built byte by byte.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;

const BOUNDS: Bounds = Bounds { bytes_max: 1 << 20, entries_max: 100 };

fn entry(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, body: &[u8]) {
    let mut header = tar::Header::new_ustar();
    // By hand: the crate's own setter refuses what these tests need.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_cksum();
    builder.append(&header, body).unwrap();
}

fn link(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, target: &str) {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_cksum();
    builder.append(&header, io::empty()).unwrap();
}

fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    build(&mut builder);
    builder.into_inner().unwrap()
}

fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, Result<Unpacked, UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("fs")).unwrap();
    let result = unpack(&mut &bytes[..], &dir.path().join("fs"), BOUNDS);
    (dir, result)
}

#[test]
fn files_directories_and_links_arrive_with_mode_and_time() {
    let bytes = layer(|b| {
        entry(b, "a/", tar::EntryType::Directory, b"");
        entry(b, "a/file", tar::EntryType::Regular, b"text");
        link(b, "a/soft", tar::EntryType::Symlink, "/etc/passwd");
        link(b, "hard", tar::EntryType::Link, "a/file");
    });
    let (dir, result) = unpacked(&bytes);
    assert_eq!(result.unwrap(), Unpacked { bytes: 4, entries: 4 });
    let root = dir.path().join("fs");
    assert_eq!(fs::read_to_string(root.join("hard")).unwrap(), "text");
    let file = fs::metadata(root.join("a/file")).unwrap();
    assert_eq!((file.nlink(), file.mode() & 0o7777, file.mtime()), (2, 0o644, 1_000_000));
    assert_eq!(fs::metadata(root.join("a")).unwrap().mtime(), 1_000_000);
    assert_eq!(fs::read_link(root.join("a/soft")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn two_dots_are_refused() {
    for path in ["../evil", "a/../../evil", "/../evil"] {
        let (dir, result) = unpacked(&layer(|b| entry(b, path, tar::EntryType::Regular, b"x")));
        assert!(matches!(result, Err(UnpackError::Hostile(_))), "{path}");
        assert!(!dir.path().join("evil").exists());
    }
    let (_dir, result) =
        unpacked(&layer(|b| link(b, "h", tar::EntryType::Link, "../../etc/passwd")));
    assert!(matches!(result, Err(UnpackError::Hostile(_))));
}

#[test]
fn a_planted_symlink_leads_nowhere_outside() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let bytes = layer(|b| {
        link(b, "out", tar::EntryType::Symlink, &target);
        entry(b, "out/evil", tar::EntryType::Regular, b"x");
    });
    let (dir, result) = unpacked(&bytes);
    assert!(!outside.path().join("evil").exists());
    // The link is taken relative to the image: it may resolve to nothing there.
    if result.is_ok() {
        assert!(dir.path().join("fs").join(target.trim_start_matches('/')).exists());
    }
    let bytes = layer(|b| {
        link(b, "up", tar::EntryType::Symlink, "../../..");
        entry(b, "up/evil", tar::EntryType::Regular, b"x");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    assert!(dir.path().join("fs/evil").exists(), "it stays beneath the root");
}

#[test]
fn writing_through_a_file_symlink_replaces_the_link() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    let target = outside.path().to_str().unwrap().to_owned();
    let bytes = layer(|b| {
        link(b, "f", tar::EntryType::Symlink, &target);
        entry(b, "f", tar::EntryType::Regular, b"x");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    assert_eq!(fs::read(outside.path()).unwrap(), b"");
    assert!(fs::symlink_metadata(dir.path().join("fs/f")).unwrap().is_file());
}

#[test]
fn bombs_are_refused_at_their_limits() {
    let many = layer(|b| {
        for n in 0..=BOUNDS.entries_max {
            entry(b, &format!("f{n}"), tar::EntryType::Regular, b"");
        }
    });
    let mut large = tar::Header::new_ustar();
    large.set_path("large").unwrap();
    large.set_size(1 << 40);
    large.set_mode(0o644);
    large.set_uid(0);
    large.set_gid(0);
    large.set_mtime(0);
    large.set_cksum();
    let mut long_name = tar::Header::new_gnu();
    long_name.set_path("././@LongLink").unwrap();
    long_name.set_entry_type(tar::EntryType::GNULongName);
    long_name.set_size(1 << 40);
    long_name.set_cksum();
    for bytes in [many, large.as_bytes().to_vec(), long_name.as_bytes().to_vec()] {
        let (_dir, result) = unpacked(&bytes);
        assert!(matches!(result, Err(UnpackError::Hostile(_))), "{result:?}");
    }
}

#[test]
fn damage_is_told_from_harm() {
    let mut bytes = layer(|b| entry(b, "f", tar::EntryType::Regular, &[7; 2000]));
    bytes.truncate(1024);
    assert!(matches!(unpacked(&bytes).1, Err(UnpackError::Damaged(_))));
    let mut bytes = layer(|b| entry(b, "f", tar::EntryType::Regular, b"x"));
    bytes[3] ^= 1;
    assert!(matches!(unpacked(&bytes).1, Err(UnpackError::Damaged(_))));
}

#[test]
fn what_a_layer_has_itself_outlives_its_deletion_marks() {
    for mark_first in [true, false] {
        let bytes = layer(|b| {
            let marks = |b: &mut tar::Builder<Vec<u8>>| {
                for mark in [".wh.file", ".wh.dir", ".wh.made"] {
                    entry(b, mark, tar::EntryType::Regular, b"");
                }
            };
            if mark_first {
                marks(b);
            }
            entry(b, "file", tar::EntryType::Regular, b"new");
            entry(b, "dir/", tar::EntryType::Directory, b"");
            // Nobody names this directory.
            entry(b, "made/in", tar::EntryType::Regular, b"new");
            if !mark_first {
                marks(b);
            }
        });
        let (dir, result) = unpacked(&bytes);
        result.unwrap();
        let root = dir.path().join("fs");
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "new");
        assert_eq!(fs::read_to_string(root.join("made/in")).unwrap(), "new");
        assert!(is_opaque(&root.join("dir")) && is_opaque(&root.join("made")), "{mark_first}");
    }
}

#[test]
fn a_later_entry_replaces_a_whole_directory() {
    let bytes = layer(|b| {
        entry(b, "a/b/file", tar::EntryType::Regular, b"old");
        link(b, "a", tar::EntryType::Symlink, "c");
        entry(b, "c/file", tar::EntryType::Regular, b"new");
        entry(b, "a/more", tar::EntryType::Regular, b"through the link");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    let root = dir.path().join("fs");
    assert_eq!(fs::read_link(root.join("a")).unwrap(), Path::new("c"));
    assert!(root.join("c/file").exists() && root.join("c/more").exists());
    assert!(!root.join("c/b").exists());
}

#[test]
fn links_that_lead_nowhere_are_refused_with_their_name() {
    let bytes = layer(|b| link(b, "h", tar::EntryType::Link, "../../etc/shadow"));
    assert!(matches!(unpacked(&bytes).1, Err(UnpackError::Hostile(text)) if text.contains("..")));
    let bytes = layer(|b| link(b, "h", tar::EntryType::Link, "/etc/shadow"));
    let text = "h is a hard link to /etc/shadow, which is not in the layer";
    assert!(matches!(unpacked(&bytes).1, Err(UnpackError::Hostile(said)) if said == text));
    let bytes = layer(|b| {
        link(b, "s", tar::EntryType::Symlink, "nowhere");
        entry(b, "s/file", tar::EntryType::Regular, b"x");
    });
    assert!(
        matches!(unpacked(&bytes).1, Err(UnpackError::Hostile(text)) if text.starts_with("s is"))
    );
}

#[test]
fn notes_of_aufs_and_blank_numbers_are_read_as_others_do() {
    let bytes = layer(|b| {
        entry(b, ".wh..wh.plnk", tar::EntryType::Directory, b"");
        entry(b, ".wh..wh.plnk/12.34", tar::EntryType::Regular, b"");
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..1].copy_from_slice(b"f");
        header.set_size(1);
        header.set_mode(0o644);
        header.as_old_mut().uid = [0; 8];
        header.as_old_mut().gid = [b' '; 8];
        header.as_old_mut().mtime = [0; 12];
        header.set_cksum();
        b.append(&header, &b"x"[..]).unwrap();
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    let names: Vec<_> = fs::read_dir(dir.path().join("fs")).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[test]
fn deletions_become_overlay_marks() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        println!("skipped: device nodes need root");
        return;
    }
    let bytes = layer(|b| {
        entry(b, "d/", tar::EntryType::Directory, b"");
        entry(b, "d/.wh.gone", tar::EntryType::Regular, b"");
        entry(b, "o/", tar::EntryType::Directory, b"");
        entry(b, "o/.wh..wh..opq", tar::EntryType::Regular, b"");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    let gone = fs::symlink_metadata(dir.path().join("fs/d/gone")).unwrap();
    assert_eq!((gone.mode() & 0o170_000, gone.rdev()), (0o020_000, 0));
    let mut value = [0u8; 4];
    let opaque = dir.path().join("fs/o");
    let length = rustix::fs::getxattr(&opaque, "trusted.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[test]
fn without_root_closed_directories_are_filled_and_devices_are_left_out() {
    let bytes = layer(|b| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o555);
        header.set_size(0);
        b.append_data(&mut header, "closed/", &b""[..]).unwrap();
        entry(b, "closed/file", tar::EntryType::Regular, b"in");
        let mut device = tar::Header::new_gnu();
        device.set_entry_type(tar::EntryType::Char);
        device.set_size(0);
        device.set_device_major(1).unwrap();
        device.set_device_minor(3).unwrap();
        b.append_data(&mut device, "null", &b""[..]).unwrap();
    });
    let dir = tempfile::tempdir().unwrap();
    unpack_as(false, &mut &bytes[..], dir.path(), BOUNDS).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("closed/file")).unwrap(), "in");
    assert_eq!(fs::metadata(dir.path().join("closed")).unwrap().mode() & 0o777, 0o755);
    assert!(!dir.path().join("null").exists());
}
