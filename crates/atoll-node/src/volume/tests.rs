//! Volumes as directories of a temporary folder; mounts are tried in the pod tests.

use super::*;

#[test]
fn an_empty_dir_is_open_to_all_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dirs = Dirs::of(dir.path());
    let plans = [("v".to_owned(), Plan::EmptyDir { in_memory: false, size_bytes: 0 })].into();
    let paths = apply(&dirs, &plans, &Ownership::default()).unwrap();
    assert_eq!(paths["v"].metadata().unwrap().permissions().mode() & 0o7777, 0o777);
    std::fs::write(paths["v"].join("f"), "kept").unwrap();
    let again = apply(&dirs, &plans, &Ownership::default()).unwrap();
    assert_eq!(std::fs::read_to_string(again["v"].join("f")).unwrap(), "kept");
}

#[test]
fn a_refused_host_path_names_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::HostPath { path: dir.path().join("gone"), kind: "Directory".into() };
    let error =
        apply(&Dirs::of(dir.path()), &[("v".to_owned(), plan)].into(), &Ownership::default())
            .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("MountVolume.SetUp failed for volume \"v\" : "), "{text}");
}

#[test]
fn the_mount_tables_spelling_is_understood() {
    assert_eq!(escape("/a b\\c"), "/a\\040b\\134c");
    assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    assert!(is_mount_point(Path::new("/proc")).unwrap());
    assert!(!is_mount_point(Path::new("/proc/sys/kernel/random")).unwrap());
}
