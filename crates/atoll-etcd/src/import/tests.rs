//! States that an etcd could have saved are read whole; what only looks like one is refused.

use super::*;
use crate::bolt::write;

fn open(bytes: &[u8]) -> EtcdSnapshot<&[u8]> {
    EtcdSnapshot::open(bytes, true, |_| {}).unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<HistoryRecord>, SnapshotError> {
    let mut records = Vec::new();
    EtcdSnapshot::open(bytes, true, |_| {})?.for_each(|record| {
        records.push(record);
        Ok::<_, SnapshotError>(())
    })?;
    Ok(records)
}

fn said(error: &SnapshotError) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    format!("{error} {}", cause.unwrap_or_default())
}

#[test]
fn what_was_written_is_read() {
    for count in [1, 3, 400] {
        let state = seed::state(count);
        assert_eq!(read(&state).unwrap(), seed::records(count));
        let survey = open(&state).survey(|_| {}).unwrap();
        assert_eq!(i64::try_from(survey.keys).unwrap(), count - (count + 2) / 3);
        assert_eq!(usize::try_from(survey.records).unwrap(), seed::records(count).len());
        assert_eq!(survey.leases, [(seed::LEASE, 60)]);
        assert_eq!(survey.compacted_revision, seed::COMPACTED);
        assert_eq!((survey.has_auth, survey.users), (true, 1));
    }
}

#[test]
fn the_checksum_at_the_end_counts() {
    let mut state = seed::state(20);
    let refused = EtcdSnapshot::open(&state[..], false, |_| {}).unwrap_err();
    assert!(matches!(refused, SnapshotError::NoHash), "{refused}");
    let hash = Sha256::digest(&state);
    state.extend_from_slice(&hash);
    EtcdSnapshot::open(&state[..], false, |_| {}).unwrap();
    let middle = state.len() / 2;
    state[middle] ^= 1;
    let refused = EtcdSnapshot::open(&state[..], false, |_| {}).unwrap_err();
    assert!(matches!(refused, SnapshotError::Hash), "{refused}");
    let refused = EtcdSnapshot::open(&state[..middle], true, |_| {}).unwrap_err();
    assert!(said(&refused).contains("the file ends before it"), "{refused:?}");
    let refused = EtcdSnapshot::open(&b"nothing of that kind"[..], true, |_| {}).unwrap_err();
    assert!(said(&refused).contains("no bbolt file"), "{refused:?}");
}

/// What one changed number makes of a state.
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<u8>), reason: &str) {
    let mut state = seed::state(400);
    change(&mut state);
    let said = said(&read(&state).map(|records| records.len()).unwrap_err());
    assert!(said.contains(reason), "{said}");
}

const PAGE: usize = write::PAGE_BYTES;
/// Of the keys: two small buckets come before.
const FIRST_LEAF: usize = 5 * PAGE;

/// The offset of the page that is the root of the keys: a branch, behind its leaves.
fn key_root(state: &[u8]) -> usize {
    let is_branch = |page: &usize| state[page * PAGE + 8] == 1;
    (3..state.len() / PAGE).find(is_branch).unwrap() * PAGE
}

#[test]
fn hostile_pages_are_refused() {
    let number = |state: &mut Vec<u8>, at: usize, number: u64| {
        state[at..at + 8].copy_from_slice(&number.to_le_bytes());
    };
    refused(
        |state| {
            let root = key_root(state);
            number(state, root + 16 + 8, (root / PAGE) as u64);
        },
        "goes in a circle",
    );
    refused(
        |state| {
            let root = key_root(state);
            number(state, root + 16 + 8, u64::MAX);
        },
        "not inside of the file",
    );
    refused(
        |state| {
            let root = key_root(state);
            number(state, root + 16 + 8, 0);
        },
        "not inside of the file",
    );
    refused(
        |state| {
            let root = key_root(state);
            number(state, root + 16 + 8, (root / PAGE - 1) as u64);
        },
        "not in order",
    );
    refused(
        |state| {
            let root = key_root(state);
            state[root + 10..root + 12].copy_from_slice(&[0xff, 0xff]);
        },
        "more elements than room",
    );
    refused(
        |state| state[FIRST_LEAF + 12..FIRST_LEAF + 16].copy_from_slice(&[0xff; 4]),
        "too long",
    );
    refused(|state| state[FIRST_LEAF + 12] = 40, "too long");
    refused(|state| state[FIRST_LEAF + 8] = 4, "neither leaf nor branch");
    refused(|state| state[FIRST_LEAF] ^= 1, "it is another one");
    refused(
        |state| state[FIRST_LEAF + 20..FIRST_LEAF + 24].copy_from_slice(&[0xff; 4]),
        "reaches beyond",
    );
    refused(|state| state[FIRST_LEAF + 16] = 1, "holds a bucket");
}

#[test]
fn what_is_no_history_is_refused() {
    let good = seed::records(2).remove(0);
    let refused = |change: &dyn Fn(&mut Vec<u8>, &mut HistoryRecord)| {
        let mut record = good.clone();
        let mut key = crate::server::stored_key(&record);
        change(&mut key, &mut record);
        let entry = (key, crate::server::stored_value(record));
        let file = seed::file(&[("key", vec![entry]), ("meta", Vec::new())]);
        matches!(read(&file), Err(SnapshotError::Malformed { .. }))
    };
    assert!(!refused(&|_, _| {}));
    assert!(refused(&|key, _| key.truncate(16)));
    assert!(refused(&|key, _| key[8] = b'-'));
    assert!(refused(&|key, _| key.push(b'x')));
    assert!(refused(&|key, _| key[9] = 0x7f));
    assert!(refused(&|_, record| record.kv.mod_revision += 1));
    assert!(refused(&|_, record| record.kv.create_revision = 100));
    assert!(refused(&|_, record| record.kv.version = 0));
    assert!(refused(&|_, record| record.kv.key = bytes::Bytes::new()));
    let file = seed::file(&[("other", Vec::new())]);
    assert!(said(&read(&file).unwrap_err()).contains("no bucket called \"key\""));
}

#[test]
fn of_any_bytes_changed_there_is_an_answer() {
    let state = seed::state(60);
    for at in (0..state.len()).step_by(7) {
        for flip in [1, 0x80] {
            let mut changed = state.clone();
            changed[at] ^= flip;
            fuzz(&changed);
        }
    }
}
