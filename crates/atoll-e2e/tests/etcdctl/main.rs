//! `etcdctl`, of two releases: everything it can do is done to a real etcd of the same release
//! and to us, and what it prints is compared, but for ids, times and sizes.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test: what goes wrong here fails it, and it may block"
)]

mod clients;
mod servers;
mod space;
mod steps;
mod tls;
mod transcript;

use servers::{Release, Served, start_etcd, start_etcd_in, start_ours};
use transcript::Transcript;

fn compare(release: Release, steps: fn(&mut Transcript<'_>)) {
    let Some(programs) = release.programs() else { return };
    let theirs = start_etcd(&programs);
    let ours = start_ours();
    let record = |served: &Served| {
        let mut transcript = Transcript::new(&programs.etcdctl, served);
        steps(&mut transcript);
        transcript.finish()
    };
    let (expected, found) = (record(&theirs), record(&ours));
    let pairs = expected.lines().zip(found.lines()).enumerate();
    for (number, (one, other)) in pairs {
        assert_eq!(one, other, "line {number}; theirs:\n{expected}\nours:\n{found}");
    }
    assert_eq!(expected, found);
}

#[test]
fn keys_as_in_3_4() {
    compare(Release::Debian34, steps::keys);
}

#[test]
fn keys_as_in_3_5() {
    compare(Release::Distro35, steps::keys);
}

#[test]
fn watches_and_leases_as_in_3_4() {
    compare(Release::Debian34, steps::watches_and_leases);
}

#[test]
fn watches_and_leases_as_in_3_5() {
    compare(Release::Distro35, steps::watches_and_leases);
}

#[test]
fn locks_and_elections_as_in_3_4() {
    compare(Release::Debian34, steps::locks_and_elections);
}

#[test]
fn locks_and_elections_as_in_3_5() {
    compare(Release::Distro35, steps::locks_and_elections);
}

#[test]
fn operators_as_in_3_4() {
    compare(Release::Debian34, steps::operators);
}

#[test]
fn operators_as_in_3_5() {
    compare(Release::Distro35, |transcript| {
        steps::operators(transcript);
        steps::operators_since_3_5(transcript);
    });
}

#[test]
fn users_are_refused_plainly() {
    let Some(programs) = Release::Distro35.programs() else { return };
    let ours = start_ours();
    let mut transcript = Transcript::new(&programs.etcdctl, &ours);
    let refused = transcript.run(&["user", "add", "somebody", "--no-password"]).fails();
    assert!(refused.contains("users and roles are not kept here"), "{refused}");
    let refused = transcript.run(&["role", "add", "some"]).fails();
    assert!(refused.contains("users and roles are not kept here"), "{refused}");
}

/// Keys, history, leases and the hash are the same in the etcd that was made of ours.
fn restores(release: Release) {
    let Some(programs) = release.programs() else { return };
    let ours = start_ours();
    let mut transcript = Transcript::new(&programs.etcdctl, &ours);
    steps::fill(&mut transcript);
    let mut look = Transcript::new(&programs.etcdctl, &ours);
    steps::look(&mut look);
    let expected = look.finish();

    let folder = tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap();
    let file = folder.path().join("snapshot.db").display().to_string();
    transcript.run(&["snapshot", "save", &file]).ok();
    transcript.run(&["snapshot", "status", &file]).ok();
    let data_dir = format!("--data-dir={}", folder.path().join("etcd").display());
    let cluster = "--initial-cluster=atoll=http://localhost:2380";
    transcript.run(&["snapshot", "restore", &file, &data_dir, "--name=atoll", cluster]).ok();

    let theirs = start_etcd_in(&programs, folder);
    let mut look = Transcript::new(&programs.etcdctl, &theirs);
    steps::look(&mut look);
    assert_eq!(look.finish(), expected);
}

#[test]
fn a_snapshot_restores_in_3_4() {
    restores(Release::Debian34);
}

#[test]
fn a_snapshot_restores_in_3_5() {
    restores(Release::Distro35);
}

/// It measures for a minute whether 150 writes/s are made, none of which takes half a second:
/// not on a machine that other tests are using.
#[test]
#[ignore = "a minute, and it wants the machine for itself"]
fn performance_passes() {
    let Some(programs) = Release::Distro35.programs() else { return };
    let ours = start_ours();
    let mut transcript = Transcript::new(&programs.etcdctl, &ours);
    let said = transcript.run(&["check", "perf", "--load=s"]).ok();
    assert!(said.contains("PASS") && !said.contains("FAIL"), "{said}");
}
