//! What a node reads: the kernel, shims, DNS clients and resolvers.

use std::path::Path;
use std::sync::OnceLock;

use super::files::DNS_SNAPSHOT;
use super::texts;
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "netlink", run: atoll_network::fuzz::answers, seeds: netlink_seeds },
    Target { name: "shim_frame", run: atoll_container::fuzz::frames, seeds: frame_seeds },
    Target { name: "dns_question", run: dns_question, seeds: dns_seeds },
    Target { name: "dns_answer", run: atoll_dns::fuzz::upstream_answer, seeds: dns_answer_seeds },
    Target { name: "kubelet_query", run: kubelet_query, seeds: query_seeds },
];

/// Memory where there is some, for targets that need files.
pub(super) fn scratch() -> &'static Path {
    static FOLDER: OnceLock<&'static Path> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { memory } else { Path::new("/tmp") }
    })
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut out = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(body.len() + 16).unwrap_or(u32::MAX).to_ne_bytes().to_vec();
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&[0; 10]);
    out.extend_from_slice(body);
    out
}

fn netlink_seeds() -> Vec<Vec<u8>> {
    let link = [vec![0; 16], attribute(3, b"eth0\0"), attribute(4, &1500_u32.to_ne_bytes())];
    let address = [vec![2, 24, 0, 0, 1, 0, 0, 0], attribute(2, &[10, 0, 0, 1])];
    let route_head = vec![2, 24, 0, 0, 254, 0xa7, 0, 0, 0, 0, 0, 0];
    let route = [route_head, attribute(1, &[10, 0, 0, 0]), attribute(4, &[1, 0, 0, 0])];
    let ip = [attribute(1, &[10, 0, 0, 1]), attribute(2, &[10, 0, 0, 2])].concat();
    let ports = [attribute(1, &[17]), attribute(2, &[0, 53]), attribute(3, &[0, 53])].concat();
    let tuple = [attribute(1, &ip), attribute(2, &ports)].concat();
    let flow = [vec![0; 4], attribute(1, &tuple), attribute(2, &tuple)];
    let all: Vec<_> = [(16, link.concat()), (20, address.concat()), (24, route.concat())]
        .into_iter()
        .chain([(0x100, flow.concat())])
        .map(|(kind, body)| message(kind, &body))
        .collect();
    vec![all.concat()]
}

fn frame_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"v":1,"op":"watch"}"#,
        r#"{"v":1,"op":"signal","signal":15}"#,
        r#"{"v":1,"op":"attach","stdin":true,"stdout":true,"stderr":false}"#,
        r#"{"v":1,"kind":"exec_exited","code":1}"#,
        r#"{"v":1,"kind":"status","version":1,"pid":5,"start_ticks":7,"shim_pid":6,"boot_id":"x"}"#,
        r#"{"v":1,"kind":"error","code":"start","message":"m"}"#,
    ])
}

fn dns_question(input: &[u8]) {
    static SERVER: OnceLock<Option<atoll_dns::fuzz::Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| atoll_dns::fuzz::Server::new(DNS_SNAPSHOT.as_bytes()));
    if let Some(server) = server {
        server.answer(input);
    }
}

fn question(name: &str, kind: u16, tail: &[u8]) -> Vec<u8> {
    let additional = u8::from(!tail.is_empty());
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional];
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(tail);
    out
}

fn dns_seeds() -> Vec<Vec<u8>> {
    const EDNS: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 128, 0, 0, 0];
    vec![
        question("web.default.svc.cluster.local", 1, &[]),
        question("_sql._tcp.db.default.svc.cluster.local", 33, EDNS),
        question("2.1.42.10.in-addr.arpa", 12, &[]),
        question("out.default.svc.cluster.local", 5, &[]),
        question("db.default.svc.cluster.local", 255, EDNS),
        question("example.com", 28, &[]),
    ]
}

fn dns_answer_seeds() -> Vec<Vec<u8>> {
    let mut answer = question("example.com", 1, &[]);
    answer[2] = 0x81;
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    vec![answer]
}

fn kubelet_query(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        let query = atoll_node::kubelet::routes::Query::parse(Some(text));
        let command = (query.get("command"), query.all("command").count());
        std::hint::black_box((command, query.flag("tty")));
    }
}

fn query_seeds() -> Vec<Vec<u8>> {
    texts(&["command=sh&command=-c&command=a%20b+c&stdin=1&tty=true&%zz=%4"])
}
