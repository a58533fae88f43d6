//! Header blocks and whole connections, as clients of etcd 3.4 and others send them.

use super::block::{mend, put_length};
use super::*;

/// `http://127.0.0.1:23790` as Go's client sends it: a new entry of the table, in Huffman code.
fn coded(authority: &str) -> Vec<u8> {
    let mut code = Vec::new();
    httlib_huffman::encode(authority.as_bytes(), &mut code).unwrap();
    let mut block = vec![0x83, 0x86, 0x44, 0x02, b'/', b'k', 0x41];
    block.push(0x80 | u8::try_from(code.len()).unwrap());
    block.extend(code);
    block.extend([0x40, 0x01, b'a', 0x01, b'b']);
    block
}

fn plain(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86, 0x44, 0x02, b'/', b'k', 0x41];
    put_length(&mut block, authority.len());
    block.extend(authority.as_bytes());
    block.extend([0x40, 0x01, b'a', 0x01, b'b']);
    block
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

fn through(bytes: &[u8]) -> Vec<u8> {
    let mut mender = Mender::default();
    mender.take(bytes);
    mender.end();
    mender.ready.to_vec()
}

#[test]
fn what_is_no_authority_is_replaced_by_as_many_bytes() {
    let long = format!("unix:///{}", "a".repeat(300));
    for authority in ["http://127.0.0.1:23790", "#initially=[a;b]", "/tmp/sock", &long] {
        let expected = plain(&"x".repeat(authority.len()));
        assert_eq!(mend(&plain(authority)), Some(expected.clone()), "{authority}");
        if authority.len() < 100 {
            assert_eq!(mend(&coded(authority)), Some(expected), "{authority}");
        }
    }
}

#[test]
fn authorities_and_blocks_that_cannot_be_read_stay() {
    for authority in ["127.0.0.1:2379", "localhost", "[::1]:2379", ""] {
        assert_eq!(mend(&plain(authority)), None, "{authority}");
    }
    let whole = plain("http://a");
    for end in 0..whole.len() - 5 {
        assert_eq!(mend(&whole[..end]), None, "{end}");
    }
}

#[test]
fn later_calls_are_mended_where_the_first_was() {
    let settings = frame(4, 0, &[0; 6]);
    let bad = frame(HEADERS, 4, &coded("http://a:1"));
    let good = frame(HEADERS, 4, &plain(&"x".repeat(10)));
    let data = frame(0, 1, &plain("http://a:1"));
    let sent = [PREFACE, &settings, &bad, &data, &bad].concat();
    let expected = [PREFACE, &settings, &good, &data, &good].concat();
    assert_eq!(through(&sent), expected);
    let mut mender = Mender::default();
    sent.chunks(1).for_each(|byte| mender.take(byte));
    assert_eq!(mender.ready, expected);
}

#[test]
fn other_connections_are_handed_through() {
    let fine = frame(HEADERS, 4, &plain("a:1"));
    let bad = frame(HEADERS, 4, &coded("http://a:1"));
    for sent in
        [[PREFACE, &fine, &bad].concat(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), b"PRI".to_vec()]
    {
        assert_eq!(through(&sent), sent);
    }
}
