//! A keyspace without room, and history that goes by itself, beside a real etcd 3.5.

use crate::{
    servers::{Release, Served, start_etcd_with, start_ours_with},
    transcript::Transcript,
};
use atoll_e2e::{
    cluster::{binary, run},
    eventually,
};
use std::{process::Command, time::Duration};

const QUOTA: &str = "4000000";
const VALUE_BYTES: usize = 100_000;
/// History that may go is ten seconds old at least.
const PATIENCE: Duration = Duration::from_secs(40);

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap()
}

fn flags(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What went wrong, without numbers of members and ports.
fn refusal(t: &mut Transcript<'_>, arguments: &[&str]) -> String {
    let said = t.run(arguments).fails();
    let said = said.replace(&t.served.endpoint, "ENDPOINT");
    let lines = said.lines().filter(|line| !line.starts_with('{'));
    lines.collect::<Vec<_>>().join("\n")
}

fn alarms(t: &mut Transcript<'_>) -> Vec<String> {
    let listed = t.run(&["alarm", "list"]).ok();
    let words = listed.lines().filter_map(|line| line.split_once(' '));
    words.map(|(_, alarm)| alarm.trim().to_owned()).collect()
}

/// Until the first refusal.
fn fill(t: &mut Transcript<'_>) {
    let value = "x".repeat(VALUE_BYTES);
    for number in 0..200 {
        let put = t.run(&["put", &format!("key/{number}"), &value]);
        if put.code != 0 {
            return;
        }
    }
    panic!("it is never full");
}

/// Everything that an operator sees from full to empty.
fn life_without_room(t: &mut Transcript<'_>) -> Vec<String> {
    fill(t);
    let mut seen = vec![refusal(t, &["put", "small", "x"])];
    seen.push(refusal(t, &["lease", "grant", "60"]));
    seen.extend(alarms(t));
    seen.push(refusal(t, &["endpoint", "health"]));
    let status = t.run(&["endpoint", "status"]).ok();
    seen.push(format!("{}", status.contains("alarm:NOSPACE")));
    // Nothing has become free, so disarming helps nobody.
    t.run(&["alarm", "disarm"]).ok();
    // A small one may still fit in an etcd.
    seen.push(refusal(t, &["put", "large", &"x".repeat(VALUE_BYTES)]));
    seen.push(t.run(&["del", "key/0"]).ok());
    seen.push(
        t.run(&["get", "key/1", "--count-only", "--write-out=fields"])
            .ok()
            .lines()
            .count()
            .to_string(),
    );
    t.run(&["del", "--prefix", "key/"]).ok();
    let present = t.run(&["get", "none", "--write-out=json"]).ok();
    let revision = present.split("\"revision\":").nth(1).unwrap();
    let revision: String = revision.chars().take_while(char::is_ascii_digit).collect();
    t.run(&["compact", "--physical", &revision]).ok();
    t.run(&["defrag"]).ok();
    seen
}

fn has_room(t: &mut Transcript<'_>) {
    let put = eventually(PATIENCE, "there is room again", || {
        let put = t.run(&["put", "small", "x"]);
        if put.code == 0 { Ok(put.stdout) } else { Err(put.stderr) }
    });
    assert_eq!(put.trim(), "OK");
    assert_eq!(alarms(t), [""; 0]);
    t.run(&["endpoint", "health"]).ok();
}

#[test]
fn a_keyspace_without_room_as_in_3_5() {
    let Some(programs) = Release::Distro35.programs() else { return };
    let theirs = start_etcd_with(&programs, folder(), &flags(&["--quota-backend-bytes", QUOTA]));
    let ours = start_ours_with(folder(), &flags(&["--etcd-quota-backend-bytes", QUOTA]));
    let mut t = Transcript::new(&programs.etcdctl, &theirs);
    let expected = life_without_room(&mut t);
    // There somebody has to say that all is well again.
    t.run(&["alarm", "disarm"]).ok();
    has_room(&mut t);

    let mut t = Transcript::new(&programs.etcdctl, &ours);
    fill(&mut t);
    says_so_elsewhere(&ours);
    assert_eq!(life_without_room(&mut t), expected);
    has_room(&mut t);
}

/// `atoll check` and the API's metrics know of it, and the cluster's objects are not affected.
fn says_so_elsewhere(ours: &Served) {
    let kubeconfig = ours.folder.path().join("server/kubeconfig");
    let atoll = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.args(arguments).env("KUBECONFIG", &kubeconfig);
        run(command, "")
    };
    let checked = atoll(&["check"]);
    assert_eq!(checked.code, 1, "{}{}", checked.stdout, checked.stderr);
    let finding = "the applications' keys (etcd API) have no room";
    assert!(checked.stdout.contains(finding), "{}", checked.stdout);
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(&kubeconfig).args(["get", "--raw", "/metrics"]);
    let metrics = run(command, "").ok();
    for (keyspace, full) in [("applications", 1), ("cluster", 0)] {
        let line = format!("atoll_store_no_space{{keyspace=\"{keyspace}\"}} {full}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(&kubeconfig).args(["create", "configmap", "still"]);
    run(command, "").ok();
}

/// The oldest revisions go, the present stays, and the refusal has etcd's words.
fn forgets(served: &Served, etcdctl: &std::path::Path) -> String {
    let mut t = Transcript::new(etcdctl, served);
    for value in ["1", "2", "3"] {
        t.run(&["put", "a", value]).ok();
    }
    eventually(PATIENCE, "history goes", || {
        let old = t.run(&["get", "a", "--rev=2"]);
        if old.code == 0 { Err(old.stdout) } else { Ok(()) }
    });
    assert_eq!(t.run(&["get", "a", "--print-value-only"]).ok().trim(), "3");
    refusal(&mut t, &["get", "a", "--rev=2"])
}

#[test]
fn history_goes_by_itself_as_in_3_5() {
    let Some(programs) = Release::Distro35.programs() else { return };
    let mode = ["auto-compaction-mode", "periodic", "auto-compaction-retention", "1s"];
    let named = |prefix: &str| {
        let names = mode.chunks(2);
        let flags = names.flat_map(|pair| [format!("--{prefix}{}", pair[0]), pair[1].to_owned()]);
        flags.collect::<Vec<_>>()
    };
    let theirs = start_etcd_with(&programs, folder(), &named(""));
    let ours = start_ours_with(folder(), &named("etcd-"));
    let expected = forgets(&theirs, &programs.etcdctl);
    assert!(expected.contains("required revision has been compacted"), "{expected}");
    assert_eq!(forgets(&ours, &programs.etcdctl), expected);
}

fn db_size(t: &mut Transcript<'_>) -> u64 {
    let status = t.run(&["endpoint", "status", "--write-out=json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    status[0]["Status"]["dbSize"].as_u64().unwrap()
}

/// What the file takes when it is full, and when nearly all was deleted and it was written anew.
fn grows_and_shrinks(t: &mut Transcript<'_>) -> (u64, u64) {
    let value = "x".repeat(VALUE_BYTES);
    for number in 0..200 {
        t.run(&["put", &format!("key/{number}"), &value]).ok();
    }
    t.run(&["put", "other", "stays"]).ok();
    t.run(&["--command-timeout=60s", "defrag"]).ok();
    let full = db_size(t);
    t.run(&["del", "--prefix", "key/"]).ok();
    let present = t.run(&["get", "none", "--write-out=json"]).ok();
    let present: serde_json::Value = serde_json::from_str(&present).unwrap();
    let revision = present["header"]["revision"].to_string();
    t.run(&["compact", "--physical", &revision]).ok();
    t.run(&["--command-timeout=60s", "defrag"]).ok();
    assert_eq!(t.run(&["get", "other", "--print-value-only"]).ok().trim(), "stays");
    (full, db_size(t))
}

#[test]
fn defrag_gives_the_disk_back_as_in_3_5() {
    let Some(programs) = Release::Distro35.programs() else { return };
    for served in [start_etcd_with(&programs, folder(), &[]), start_ours_with(folder(), &[])] {
        let mut t = Transcript::new(&programs.etcdctl, &served);
        let (full, empty) = grows_and_shrinks(&mut t);
        println!("{}: {full} bytes, then {empty}", served.endpoint);
        assert!(full > 20_000_000 && empty < 2_000_000, "{full}, then {empty}");
    }
}
