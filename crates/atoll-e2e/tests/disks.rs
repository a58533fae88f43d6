//! Disks that are full, damaged, or not to be written: nothing acknowledged is lost, and
//! what is wrong is said.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster, Output,
    cluster::{binary, run, workspace},
    eventually, is_root,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const READY: Duration = Duration::from_secs(60);

/// A file system of its own, in memory; gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn new(megabytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("atoll-disk-").tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "disk"]);
        mount.arg(folder.path());
        run(mount, "").ok();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Until not a byte more fits.
    fn fill(&self) -> PathBuf {
        let file = self.path().join("fill");
        for block in ["1M", "1k", "1"] {
            let mut fill = Command::new("dd");
            fill.args(["if=/dev/zero", "oflag=append", "conv=notrunc"]);
            fill.arg(format!("bs={block}")).arg(format!("of={}", file.display()));
            let filled = run(fill, "").fails();
            assert!(filled.contains("No space left"), "{filled}");
        }
        file
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(self.path());
        run(unmount, "");
    }
}

/// Starts it and waits for its end.
fn dev(dir: &Path) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-s", "INT", "20"]).arg(binary()).args(["dev", "--port", "0", "--data-dir"]);
    command.arg(dir);
    run(command, "")
}

fn config_maps(cluster: &Cluster) -> BTreeSet<String> {
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    names.lines().filter(|name| !name.contains("kube-root-ca")).map(ToOwned::to_owned).collect()
}

#[test]
fn a_full_disk_refuses_writes_and_recovers_by_itself() {
    if !is_root("disks") {
        return;
    }
    let program = std::fs::metadata(binary()).unwrap().len() / 1_000_000;
    let disk = Small::new(program + 60);
    let mut cluster = Cluster::start_in(&disk.path().join("data"), 2);
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    let before: BTreeSet<String> = identities(&cluster.pods_ready("app=hello", 5, READY));
    let fill = disk.fill();

    let mut acknowledged = BTreeSet::new();
    let mut refused = String::new();
    let value = format!("--from-literal=value={}", "x".repeat(90_000));
    for index in 0..200 {
        let name = format!("full-{index}");
        let created = cluster.kubectl(&["create", "configmap", &name, &value]);
        if created.code == 0 {
            acknowledged.insert(format!("configmap/{name}"));
        } else {
            refused = created.stderr;
            break;
        }
    }
    assert!(refused.contains("the disk is full"), "{refused}");
    assert_eq!(config_maps(&cluster), acknowledged, "reads go on");
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.matches(" Ready").count(), 2, "{nodes}");

    std::fs::remove_file(fill).unwrap();
    eventually(Duration::from_secs(20), "writes are taken again", || {
        let created = cluster.kubectl(&["create", "configmap", "after"]);
        if created.code == 0 { Ok(()) } else { Err(created.stderr) }
    });
    acknowledged.insert("configmap/after".to_owned());
    cluster.kill();
    cluster.launch();
    assert_eq!(config_maps(&cluster), acknowledged);
    // Pressure of the disk lasts for minutes, but nothing is thrown out for it.
    assert_eq!(identities(&cluster.pods_ready("app=hello", 5, READY)), before);
    assert!(!cluster.logs().contains("ended, starting it again"), "{}", cluster.logs());
    cluster.stop();
}

fn identities(pods: &[serde_json::Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_start_without_space_says_so_and_leaves_nothing() {
    if !is_root("disks") {
        return;
    }
    let before = atoll_e2e::system::state();
    let disk = Small::new(8);
    let begun = Instant::now();
    let said = dev(&disk.path().join("data")).fails();
    assert!(said.contains("No space left on device"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{said}");
    drop(disk);
    eventually(Duration::from_secs(20), "the machine is as before", || {
        let difference = atoll_e2e::system::left(&before, &atoll_e2e::system::state());
        if difference.is_empty() { Ok(()) } else { Err(difference.join("\n")) }
    });
}

/// A cluster with a few objects that has been stopped.
fn stopped() -> Cluster {
    let mut cluster = Cluster::start(1);
    for index in 0..5 {
        let (name, value) = (format!("kept-{index}"), format!("--from-literal=v=MARK{index}"));
        cluster.kubectl(&["create", "configmap", &name, &value]).ok();
    }
    // The end of the log is sealed a moment after the last write.
    std::thread::sleep(Duration::from_millis(1_200));
    cluster.stop();
    cluster
}

fn log_of(cluster: &Cluster) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(cluster.dir.join("server/store/wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.pop().unwrap()
}

#[test]
fn a_flipped_byte_of_the_log_is_refused_and_named() {
    if !is_root("disks") {
        return;
    }
    let mut cluster = stopped();
    let file = log_of(&cluster);
    let sound = std::fs::read(&file).unwrap();
    let at = sound.windows(5).position(|window| window == b"MARK2").unwrap();
    let mut damaged = sound.clone();
    damaged[at] ^= 0x20;
    std::fs::write(&file, &damaged).unwrap();

    let begun = Instant::now();
    let refused = dev(&cluster.dir);
    assert_eq!(refused.code, 1, "{refused:?}");
    let said = refused.stderr;
    let named = format!("{} is damaged at offset ", file.display());
    let offset = said.split(&named).nth(1).unwrap_or_else(|| panic!("{said}"));
    let offset: usize = offset.split(':').next().unwrap().parse().unwrap();
    assert!(offset <= at && at < offset + 4_096, "{offset} for a flip at {at}");
    assert!(
        said.lines().last().unwrap().starts_with("error: starting the server on node-1: "),
        "{said}"
    );
    assert!(begun.elapsed() < Duration::from_secs(15), "it was tried for {:?}", begun.elapsed());
    assert_eq!(std::fs::read(&file).unwrap(), damaged, "nothing was changed");

    std::fs::write(&file, &sound).unwrap();
    cluster.launch();
    assert_eq!(config_maps(&cluster).len(), 5);
    cluster.stop();
}

/// Writes that a power cut interrupts leave some of their sectors.
#[test]
fn a_torn_tail_is_cut_and_no_acknowledged_write_is_lost() {
    const SECTOR: usize = 512;
    if !is_root("disks") {
        return;
    }
    let mut cluster = stopped();
    let saved = cluster.dir.with_extension("saved");
    copy(&cluster.dir, &saved);
    let file = log_of(&cluster);
    let before = std::fs::read(&file).unwrap();
    let end = before.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(4_096);
    // What the next start and one large object append to it.
    cluster.launch();
    let value = format!("--from-literal=value={}", "y".repeat(50_000));
    cluster.kubectl(&["create", "configmap", "large", &value]).ok();
    cluster.kill();
    let after = std::fs::read(&file).unwrap();
    assert_eq!(before[..end], after[..end], "the log only grows");
    let marker = after.windows(100).position(|window| window == [b'y'; 100]).unwrap();

    // Cut in the first batch, between two, and in the middle of the large one.
    for cut in [end + SECTOR, (end + marker) / 2, marker + 20_000] {
        let cut = cut / SECTOR * SECTOR;
        let mut torn = after.clone();
        torn[cut..].fill(0);
        copy(&saved, &cluster.dir);
        std::fs::write(&file, &torn).unwrap();
        cluster.launch();
        assert_eq!(config_maps(&cluster).len(), 5, "cut at {cut}");
        cluster.kubectl(&["create", "configmap", "next"]).ok();
        cluster.kill();
        cluster.launch();
        assert_eq!(config_maps(&cluster).len(), 6, "cut at {cut}");
        cluster.stop();
    }
}

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.args(["-aT", "--remove-destination"]).arg(from).arg(to);
    run(command, "").ok();
}

#[test]
fn folders_that_cannot_be_used_are_refused() {
    if !is_root("disks") {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = dev(&file).fails();
    assert!(said.contains(&format!("making the data folder {}", file.display())), "{said}");

    let disk = Small::new(1);
    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,ro"]).arg(disk.path());
    run(remount, "").ok();
    let said = dev(disk.path()).fails();
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.contains("make it writable, or choose another with --data-dir"), "{said}");

    let folder = parent.path().join("newer");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("cluster.json"), r#"{"version":2,"id":"0a1b2c3d","nodes":1}"#)
        .unwrap();
    let said = dev(&folder).fails();
    assert!(said.contains("has version 2, this program reads 1"), "{said}");
    std::fs::write(folder.join("cluster.json"), "{").unwrap();
    let said = dev(&folder).fails();
    assert!(said.contains("cluster.json is damaged"), "{said}");
}
