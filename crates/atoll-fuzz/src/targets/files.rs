//! What is read from disk, also from a disk that lies: the store, checkpoints, snapshots.

use std::io::Write as _;

use atoll_backup::{age, archive};

use super::texts;
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "wal_segment", run: wal_segment, seeds: atoll_store::fuzz::segments },
    Target { name: "peer_message", run: atoll_store::fuzz::peer, seeds: atoll_store::fuzz::peers },
    Target { name: "log_entry", run: atoll_store::fuzz::entry, seeds: atoll_store::fuzz::entries },
    Target {
        name: "state_record",
        run: atoll_store::fuzz::record,
        seeds: atoll_store::fuzz::records,
    },
    Target { name: "store_snapshot", run: store_snapshot, seeds: atoll_store::fuzz::wholes },
    Target {
        name: "etcd_snapshot",
        run: atoll_etcd::import::fuzz,
        seeds: atoll_etcd::import::fuzz_seeds,
    },
    Target { name: "backup", run: backup, seeds: backup_seeds },
    Target { name: "backup_contents", run: backup_contents, seeds: backup_contents_seeds },
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

fn backup_key() -> (age::Lock, Option<age::Key>) {
    let text = "AGE-SECRET-KEY-1AEPGYREC4FYCHRZP8JPL9X0S7GEJ83ZJXEDTW6SVTG7GSECQN07QRU9GRZ";
    let keys = age::Identity::parse_file(text).ok();
    let recipients = keys.iter().flatten().flat_map(age::Identity::recipient).collect();
    (age::Lock::Recipients(recipients), keys.map(age::Key::Identities))
}

/// For a key: trying a passphrase takes half a second.
fn backup(input: &[u8]) {
    let Some(key) = backup_key().1 else { return };
    let (mut opener, mut out) = (age::Opener::new(key), Vec::new());
    if opener.push(input, &mut out).is_ok() {
        drop(opener.finish(&mut out));
    }
    assert!(out.len() <= input.len());
}

fn backup_seeds() -> Vec<Vec<u8>> {
    let sealed = |bytes: usize| {
        let (mut sealer, mut out) = age::Sealer::new(&backup_key().0).ok()?;
        sealer.push(&vec![b'c'; bytes], &mut out).ok()?;
        sealer.finish(&mut out).ok()?;
        Some(out)
    };
    [0, 100, 70_000].into_iter().filter_map(sealed).collect()
}

fn backup_contents(input: &[u8]) {
    let mut reader = archive::Reader::new();
    for piece in input.chunks(7) {
        if reader.push(piece).is_err() {
            return;
        }
    }
    if let Ok(manifest) = reader.finish() {
        assert!(manifest.keys.iter().all(|key| !key.name.contains('/') && key.content().is_ok()));
        let mut again = archive::Reader::new();
        let encoded = manifest.encode().unwrap_or_default();
        assert!(again.push(&encoded).is_ok_and(<[u8]>::is_empty));
        assert!(again.finish().is_ok_and(|read| read == manifest));
    }
}

fn backup_contents_seeds() -> Vec<Vec<u8>> {
    let manifest = archive::Manifest {
        cluster_id: "00112233445566778899aabbccddeeff".into(),
        taken_at: "2026-11-25T12:00:00Z".into(),
        release: "0.1.0".into(),
        servers: vec!["server-1".into()],
        cluster_revision: 812,
        applications_revision: 1,
        keys: vec![archive::KeyFile::new("client-ca.key".into(), true, b"key")],
    };
    let mut bytes = manifest.encode().unwrap_or_default();
    bytes.extend_from_slice(b"ATWHOLE");
    vec![bytes]
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
