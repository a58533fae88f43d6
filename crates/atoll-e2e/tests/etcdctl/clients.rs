//! Clients of etcd that nobody here wrote: Python's aetcd by the tests that it brings along, npm's
//! etcd3, and Patroni.

use crate::servers::{Release, start_etcd, start_ours};
use atoll_e2e::cluster::{run, workspace};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Tests of aetcd that want what is not here: users are refused.
const REFUSED: &[&str] = &["test_auth.py::test_auth"];

/// What `scripts/prepare test` installs; elsewhere the test says that it is not there.
fn installed(path: &str) -> Option<PathBuf> {
    let path = workspace().join(".tools/clients").join(path);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing: run scripts/prepare test", path.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    None
}

/// They empty the keyspace after each test, so each file has a server for itself.
fn aetcd(home: &Path, etcdctl: &Path, files: &[&str]) {
    let ours = start_ours();
    let mut command = Command::new(home.join("venv/bin/python"));
    command.current_dir(home).args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"]);
    command.args(["-o", "addopts=", "-o", "asyncio_mode=auto"]);
    command.env("TEST_ETCD_HTTP_URL", format!("http://{}", ours.endpoint));
    command.env("PATH", format!("{}:/usr/bin:/bin", etcdctl.parent().unwrap().display()));
    for file in files {
        command.arg(format!("tests/integration/{file}"));
        for refused in REFUSED.iter().filter(|refused| refused.starts_with(file)) {
            command.arg(format!("--deselect=tests/integration/{refused}"));
        }
    }
    let said = run(command, "").ok();
    assert!(said.contains(" passed") && !said.contains("failed"), "{said}");
}

/// They mostly wait, for leases to end: so all at once.
#[test]
fn the_tests_of_pythons_aetcd_pass() {
    let Some(programs) = Release::Distro35.programs() else { return };
    let Some(home) = installed("aetcd") else { return };
    let parts: [&[&str]; 3] = [
        &["test_watch.py"],
        &["test_lock.py", "test_lease.py"],
        &["test_kv.py", "test_cluster.py", "test_maintenance.py"],
    ];
    std::thread::scope(|scope| {
        for files in parts {
            scope.spawn(|| aetcd(&home, &programs.etcdctl, files));
        }
    });
}

#[test]
fn npms_etcd3_finds_what_it_expects() {
    let Some(modules) = installed("etcd3/node_modules") else { return };
    let ours = start_ours();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/etcdctl/node_client.mjs");
    let mut command = Command::new("node");
    command.arg(script).env("CLIENTS_MODULES", modules).env("ENDPOINTS", &ours.endpoint);
    let said = run(command, "").ok();
    assert!(said.contains("everything held"), "{said}");
}

/// It is told the same by ours and by an etcd.
#[test]
fn patroni_keeps_its_cluster_in_it() {
    let Some(programs) = Release::Distro35.programs() else { return };
    let Some(python) = installed("patroni/bin/python") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/etcdctl/patroni_members.py");
    let told = |endpoint: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).arg(endpoint);
        run(command, "").ok()
    };
    let (ours, theirs) = (start_ours(), start_etcd(&programs));
    let (found, expected) = std::thread::scope(|scope| {
        let found = scope.spawn(|| told(&ours.endpoint));
        let expected = scope.spawn(|| told(&theirs.endpoint));
        (found.join().unwrap(), expected.join().unwrap())
    });
    assert!(expected.contains("everything held"), "{expected}");
    assert_eq!(found, expected);
}
