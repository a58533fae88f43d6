//! What is read from disk, also from a disk that lies: the store, checkpoints, snapshots.

use std::io::Write as _;

use super::texts;
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "wal_segment", run: wal_segment, seeds: atoll_store::fuzz::segments },
    Target { name: "log_entry", run: atoll_store::fuzz::entry, seeds: atoll_store::fuzz::entries },
    Target {
        name: "state_record",
        run: atoll_store::fuzz::record,
        seeds: atoll_store::fuzz::records,
    },
    Target { name: "store_snapshot", run: store_snapshot, seeds: atoll_store::fuzz::wholes },
    Target { name: "member_file", run: atoll_store::fuzz::member, seeds: member_seeds },
    Target { name: "dns_files", run: atoll_dns::fuzz::files, seeds: dns_file_seeds },
    Target { name: "pod_checkpoint", run: checkpoint, seeds: checkpoint_seeds },
    Target { name: "kubeconfig", run: kubeconfig, seeds: kubeconfig_seeds },
    Target { name: "log_line", run: log_line, seeds: log_seeds },
];

/// The checksums are made right first: a fuzzer does not guess them.
fn wal_segment(input: &[u8]) {
    atoll_store::fuzz::segment(input);
    atoll_store::fuzz::segment(&atoll_store::fuzz::with_checksums(input));
}

fn store_snapshot(input: &[u8]) {
    atoll_store::fuzz::whole(input);
    atoll_store::fuzz::whole(&atoll_store::fuzz::with_whole_checksums(input));
}

fn member_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"format":1,"cluster_id":"00112233445566778899aabbccddeeff","member_id":5,"epoch":2}"#,
        r#"{"format":1,"cluster_id":"é","member_id":5,"epoch":2}"#,
    ])
}

pub(super) const DNS_SNAPSHOT: &str = r#"{"version":1,"upstreams":["192.0.2.1:53"],
"namespaces":["default"],"services":[
{"namespace":"default","name":"web","cluster_addresses":["10.43.0.20"],
"ports":[{"name":"http","protocol":"TCP","port":80}]},
{"namespace":"default","name":"db","endpoints":[{"address":"10.42.1.2","hostname":"db-0",
"ready":true,"ports":[{"name":"sql","protocol":"TCP","port":5432}]}],"publish_not_ready":true},
{"namespace":"default","name":"out","external_name":"example.com"}]}"#;

fn dns_file_seeds() -> Vec<Vec<u8>> {
    texts(&[DNS_SNAPSHOT, "nameserver 192.0.2.7\nsearch a b\noptions ndots:5\n"])
}

fn checkpoint(input: &[u8]) {
    let Ok(mut file) = tempfile::NamedTempFile::new_in(super::machine::scratch()) else { return };
    if file.write_all(input).is_ok() {
        drop(atoll_node::checkpoint::load(file.path()));
    }
}

fn checkpoint_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"version":1,"pods":[{"metadata":{"name":"p","creationTimestamp":"2026-01-02T03:04:05Z"},
        "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]},"status":{}}]}"#,
        r#"{"version":2,"pods":[]}"#,
    ])
}

fn kubeconfig(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        drop(kube::config::Kubeconfig::from_yaml(text));
    }
}

fn kubeconfig_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: v1\nkind: Config\nclusters:\n- name: a\n  cluster: {server: 'https://h:1', \
         certificate-authority-data: YQ==}\nusers:\n- name: u\n  user: {token: t}\ncontexts:\n\
         - name: c\n  context: {cluster: a, user: u}\ncurrent-context: c\n",
    ])
}

fn log_line(input: &[u8]) {
    use atoll_node::kubelet::log_file;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        if let Some(entry) = log_file::parse(line) {
            let before = entry.is_before(jiff::Timestamp::UNIX_EPOCH);
            drop((before, entry.render(true)));
        }
    }
}

fn log_seeds() -> Vec<Vec<u8>> {
    texts(&["2026-01-02T03:04:05.000000006Z stdout F hello\n2026-01-02T03:04:05Z stderr P x\n"])
}
