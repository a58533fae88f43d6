//! Versions, compaction and the encoding of commands, without a disk.

use super::*;
use crate::kv::{KeyRange, Op, PutRequest, RangeRequest, Txn, UpdateRequest};

fn apply(state: &mut State, op: Op) -> apply::Applied {
    let command = Command::Txn(Txn { success: vec![op], ..Txn::default() });
    state.apply(&command, &|_| false).unwrap()
}

fn put(state: &mut State, key: &'static str, value: &'static str) {
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
    apply(state, Op::Put(PutRequest { key, value, lease: 0, prev_kv: false }));
}

fn delete(state: &mut State, key: &'static str) {
    let range = KeyRange::single(Bytes::from_static(key.as_bytes()));
    apply(state, Op::Delete { range, prev_kv: false });
}

fn compact(state: &mut State, revision: Revision) {
    assert!(state.apply(&Command::Compact { revision }, &|_| false).unwrap().response.is_ok());
    state.sweep(usize::MAX);
}

fn kept(state: &State) -> Vec<(Bytes, Revision)> {
    state
        .index
        .iter()
        .flat_map(|(key, history)| {
            history.versions().iter().map(move |version| (key.clone(), version.at.main))
        })
        .collect()
}

fn all(key: &'static str, revisions: &[Revision]) -> Vec<(Bytes, Revision)> {
    revisions.iter().map(|revision| (Bytes::from(key), *revision)).collect()
}

#[test]
fn compaction_keeps_the_newest_version_at_its_revision() {
    let mut state = State::default();
    for value in ["1", "2", "3", "4"] {
        put(&mut state, "a", value);
    }
    compact(&mut state, 3);
    assert_eq!(kept(&state), all("a", &[3, 4, 5]));
    compact(&mut state, 5);
    assert_eq!(kept(&state), all("a", &[5]));
    assert_eq!(state.live_bytes, State::record_bytes(b"a", 1));
}

#[test]
fn a_step_of_compaction_ends_when_it_has_dropped_enough() {
    let mut state = State::default();
    for key in ["a", "b"] {
        (0..1500).for_each(|_| put(&mut state, key, "1"));
    }
    let newest = state.revision;
    compact(&mut state, newest);
    let left = |state: &State| state.index.values().map(|one| one.versions().len()).sum::<usize>();
    assert_eq!(left(&state), 1 + 1500);
    assert!(state.needs_sweep());
    state.sweep(usize::MAX);
    assert_eq!(left(&state), 2);
}

#[test]
fn a_deletion_goes_once_nobody_can_watch_it() {
    let mut state = State::default();
    put(&mut state, "a", "1");
    delete(&mut state, "a");
    compact(&mut state, 3);
    assert_eq!(kept(&state), all("a", &[3]));
    put(&mut state, "b", "1");
    compact(&mut state, 4);
    assert_eq!(kept(&state), all("b", &[4]));
    assert!(!state.needs_sweep());
}

#[test]
fn what_is_compacted_before_it_was_flushed_never_reaches_the_disk() {
    let mut state = State::default();
    put(&mut state, "a", "1");
    put(&mut state, "a", "2");
    compact(&mut state, 3);
    assert_eq!((state.pending.records.len(), state.pending.removed.len()), (1, 0));
    let flushing = state.begin_flush();
    assert_eq!(flushing.records.len(), 1);
    put(&mut state, "a", "3");
    compact(&mut state, 4);
    assert_eq!((state.pending.records.len(), state.pending.removed.len()), (1, 1));
}

#[test]
fn a_recreated_key_counts_its_versions_anew() {
    let mut state = State::default();
    put(&mut state, "a", "1");
    put(&mut state, "a", "2");
    delete(&mut state, "a");
    put(&mut state, "a", "3");
    let range = RangeRequest::new(KeyRange::single("a"));
    let found = state.plan(&range, state.revision).finish().unwrap();
    assert_eq!((found.kvs[0].create_revision, found.kvs[0].version), (5, 1));
}

#[test]
fn commands_come_back_from_their_encoding() {
    let inner = Txn {
        compare: vec![kv::Compare {
            range: KeyRange::prefix("p"),
            relation: kv::Relation::Greater,
            target: kv::CompareTarget::Value(Bytes::from("v")),
        }],
        success: vec![Op::Delete { range: KeyRange::single("d"), prev_kv: true }],
        failure: vec![],
    };
    let commands = [
        Command::Txn(Txn {
            success: vec![
                Op::Txn(Box::new(inner)),
                Op::Range(RangeRequest {
                    revision: Some(4),
                    ..RangeRequest::new(KeyRange::single("r"))
                }),
            ],
            ..Txn::default()
        }),
        Command::Compact { revision: 9 },
        Command::LeaseGrant { id: -1, ttl: 7 },
        Command::LeaseRevoke { id: i64::MAX },
        Command::LeaseCheckpoint { id: 5, remaining: 3 },
    ];
    let origin = Origin { member_id: 1, epoch: 2, number: 3 };
    let mut payload = Vec::new();
    encode_batch_header(&mut payload, origin);
    for command in &commands {
        encode_command(&mut payload, 1, command);
    }
    let (found, decoded) = decode_batch(Bytes::from(payload)).unwrap();
    assert_eq!(found, origin);
    assert_eq!(decoded, commands.map(|command| (1, command)));
}

proptest::proptest! {
    #[test]
    fn decoding_noise_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let mut entry = vec![1];
        entry.extend(bytes);
        drop(decode_batch(Bytes::from(entry.clone())));
        drop(Record::decode(Bytes::from(entry.clone())));
        drop(Record::decode_head(&entry));
        drop(crate::snapshot::import(Bytes::from(entry)));
    }
}

#[test]
fn a_read_for_a_watch_ends_between_revisions_and_says_how_far_it_came() {
    let mut state = State::default();
    for _ in 0..3000 {
        let ops = ["a", "b"].map(|key| {
            let key = Bytes::from_static(key.as_bytes());
            Op::Put(PutRequest { key, value: Bytes::from_static(b"v"), lease: 0, prev_kv: false })
        });
        let command = Command::Txn(Txn { success: ops.to_vec(), ..Txn::default() });
        state.apply(&command, &|_| false).unwrap();
    }
    let range = KeyRange::single("b");
    let first = state.events(&range, (2, 3001), true, usize::MAX).unwrap();
    assert_eq!((first.through, first.events.len()), (2049, 2048));
    let rest = state.events(&range, (2050, 3001), true, usize::MAX).unwrap();
    assert_eq!((rest.through, rest.events.len()), (3001, 952));
    assert!(rest.events.iter().all(|event| event.prev_kv.is_some()));
    let small = state.events(&range, (2, 3001), false, 10).unwrap();
    assert_eq!((small.through, small.events.len()), (7, 6));
}

#[test]
fn an_update_keeps_what_it_is_not_given() {
    let mut state = State::default();
    put(&mut state, "a", "1");
    let update = |key: &'static str, value: Option<&'static str>| {
        Op::Update(UpdateRequest {
            key: key.into(),
            value: value.map(Bytes::from),
            lease: None,
            prev_kv: true,
        })
    };
    let missing = apply(&mut state, update("b", Some("2"))).response;
    assert_eq!(missing, Err(kv::Error::KeyNotFound));
    assert_eq!(state.revision, 2);

    let applied = apply(&mut state, update("a", None));
    assert!(applied.response.is_ok());
    assert_eq!(applied.events[0].kv.value, "1");
    assert_eq!(applied.events[0].kv.version, 2);

    let origin = Origin { member_id: 1, epoch: 1, number: 1 };
    let mut encoded = Vec::new();
    encode_batch_header(&mut encoded, origin);
    let command = Command::Txn(Txn { success: vec![update("a", None)], ..Txn::default() });
    encode_command(&mut encoded, 1, &command);
    let decoded = decode_batch(encoded.into()).unwrap();
    assert_eq!(decoded, (origin, vec![(1, command)]));
}
