//! What a container gets, from its specification.

use super::*;
use crate::spec::{LogSpec, Namespaces, Root, Security, Stdio};

fn spec() -> ContainerSpec {
    ContainerSpec {
        sandbox: "s".into(),
        name: "c".into(),
        attempt: 0,
        id: "id".into(),
        labels: std::collections::BTreeMap::new(),
        rootfs: "/root-fs".into(),
        root: Root::default(),
        process: Process { args: vec!["/app".into()], ..Process::default() },
        stdio: Stdio::default(),
        mounts: Vec::new(),
        devices: Vec::new(),
        namespaces: Namespaces::default(),
        hostname: None,
        sysctls: std::collections::BTreeMap::new(),
        security: Security::default(),
        cgroup: "c".into(),
        resources: Resources::default(),
        oom_score_adj: None,
        log: LogSpec::new("/log".into()),
    }
}

fn built(spec: &ContainerSpec) -> Value {
    let around = Surroundings {
        cgroup_version: CgroupVersion::V1,
        cgroup: "/atoll/c",
        shm: None,
        oom_score_adj: None,
        hierarchies: &["/sys/fs/cgroup/memory".into()],
    };
    config(spec, &around).unwrap()
}

#[test]
fn libcontainer_reads_what_is_written() {
    let text = serde_json::to_string(&built(&spec())).unwrap();
    let read: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
    assert_eq!(read.process().as_ref().unwrap().args().as_ref().unwrap(), &["/app"]);
}

#[test]
fn no_new_privileges_is_absent_unless_asked_for() {
    let mut spec = spec();
    assert!(built(&spec)["process"].get("noNewPrivileges").is_none());
    spec.security.no_new_privileges = true;
    assert_eq!(built(&spec)["process"]["noNewPrivileges"], json!(true));
}

#[test]
fn only_privileged_containers_write_to_cgroups() {
    let mut spec = spec();
    spec.security.unmasked_proc = true;
    assert_eq!(built(&spec)["linux"]["readonlyPaths"], json!(["/sys/fs/cgroup/memory"]));
    spec.security.privileged = true;
    assert!(built(&spec)["linux"].get("readonlyPaths").is_none());
}

#[test]
fn privileged_containers_have_no_filter_and_no_masks() {
    let mut spec = spec();
    spec.security.privileged = true;
    let linux = &built(&spec)["linux"];
    assert!(linux.get("seccomp").is_none() && linux.get("maskedPaths").is_none());
}

#[test]
fn mounts_are_made_parents_first() {
    let mut spec = spec();
    for path in ["/a/b/c", "/a"] {
        spec.mounts.push(Mount {
            source: MountSource::Tmpfs { size_bytes: 0, mode: 0o777 },
            destination: path.into(),
            read_only: false,
            no_exec: false,
        });
    }
    let built = built(&spec);
    let order: Vec<&str> = built["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .filter(|d| d.starts_with("/a"))
        .collect();
    assert_eq!(order, ["/a", "/a/b/c"]);
}

#[test]
fn a_later_variable_of_the_same_name_wins_and_path_is_always_there() {
    let process = Process {
        env: vec![("A".into(), "1".into()), ("A".into(), "2".into())],
        ..Process::default()
    };
    let lines = environment(&process);
    assert_eq!(lines, [format!("PATH={DEFAULT_PATH}"), "A=2".to_owned()]);
}

#[test]
fn refuses_what_cannot_run() {
    let mut without_command = spec();
    without_command.process.args.clear();
    let mut relative = spec();
    relative.process.cwd = "src".into();
    let mut over_root = spec();
    over_root.mounts.push(Mount {
        source: MountSource::Tmpfs { size_bytes: 0, mode: 0o777 },
        destination: "/".into(),
        read_only: false,
        no_exec: false,
    });
    for bad in [without_command, relative, over_root] {
        assert!(check(&bad).unwrap_err().is_invalid());
    }
}
