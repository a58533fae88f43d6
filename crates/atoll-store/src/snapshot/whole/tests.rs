//! What comes out of a snapshot is what went in, and a damaged one never becomes a state.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::backend::{Backend, FlushJob, Meta, StateWriter};
use crate::clock::MonotonicClock;
use crate::consensus::Position;
use crate::disk::{Disk, SimulatedDisk};
use crate::kv::{KeyRange, LeaseId, Op, PutRequest, Txn};
use crate::mvcc::{Command, State};
use crate::wal::{Identity, Wal};

const INCOMING: &str = "state.incoming";

fn clock() -> Arc<MonotonicClock> {
    Arc::new(MonotonicClock::new())
}

/// States that read from a file.
struct Opened {
    states: [State; KEYSPACES],
    _backend: Arc<Backend>,
}

impl Opened {
    fn dumps(&self) -> [Dump; KEYSPACES] {
        self.states.each_ref().map(dump)
    }
}

/// Everything that a keyspace keeps.
#[derive(Debug, PartialEq)]
struct Dump {
    header: crate::snapshot::Header,
    records: Vec<(RevKey, Vec<u8>)>,
}

fn dump(state: &State) -> Dump {
    let copy = state.begin_copy();
    let mut records = Vec::new();
    let all = copy.visit_from(RevKey { main: 0, sub: 0 }, |at, encoded| {
        records.push((at, encoded.to_vec()));
        true
    });
    assert!(all.unwrap());
    Dump { header: copy.header, records }
}

fn meta(states: &[State; KEYSPACES]) -> Meta {
    Meta {
        applied: Position { index: 17, term: 3 },
        chain: 0xfeed,
        installed: true,
        roster: crate::backend::Roster::default(),
        keyspaces: [0, 1].map(|at| (states[at].revision, states[at].compacted)),
    }
}

fn whole(states: &[State; KEYSPACES]) -> WholeCopy {
    WholeCopy::of(meta(states).encode(), states)
}

fn bytes(states: &[State; KEYSPACES]) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in whole(states).chunks() {
        let chunk = chunk.unwrap();
        assert!(chunk.len() <= 256 << 10, "{} bytes", chunk.len());
        all.extend_from_slice(&chunk);
    }
    all
}

fn import(
    disk: &SimulatedDisk,
    snapshot: &[u8],
    mut next_bytes: impl FnMut() -> usize,
) -> Result<Imported, ImportError> {
    let mut importer = Importer::new(Arc::new(disk.clone()), clock(), INCOMING)?;
    let mut rest = snapshot;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(next_bytes().clamp(1, rest.len()));
        importer.push(piece)?;
        rest = behind;
    }
    importer.finish()
}

fn open(disk: &SimulatedDisk) -> (Meta, Opened) {
    disk.rename(INCOMING, "state.redb").unwrap();
    let backend = Backend::open(disk, clock(), 1 << 20).unwrap();
    let loaded = backend.load().unwrap();
    (loaded.meta.unwrap(), Opened { states: loaded.states, _backend: Arc::new(backend) })
}

fn apply(state: &mut State, command: &Command) {
    // Many are refused, as it happens.
    drop(state.apply(command, &|_| false).unwrap());
}

fn put(key: String, value: Vec<u8>, lease: LeaseId) -> Command {
    let put = PutRequest { key: key.into(), value: value.into(), lease, prev_kv: false };
    Command::Txn(Txn { success: vec![Op::Put(put)], ..Txn::default() })
}

fn draw(random: &mut StdRng, state: &State) -> Command {
    let key = format!("key/{:02}", random.random_range(0..20));
    match random.random_range(0..100) {
        0..60 => {
            let length = if random.random_bool(0.02) { 300_000 } else { 40 };
            let length = random.random_range(0..length);
            let value = if random.random_bool(0.5) {
                vec![b'v'; length]
            } else {
                (0..length).map(|_| random.random()).collect()
            };
            put(key, value, random.random_range(0..3))
        }
        60..75 => {
            let range = KeyRange::single(key);
            let op = Op::Delete { range, prev_kv: false };
            Command::Txn(Txn { success: vec![op], ..Txn::default() })
        }
        75..85 => Command::LeaseGrant { id: random.random_range(1..3), ttl: 100 },
        85..88 => Command::LeaseRevoke { id: random.random_range(1..3) },
        88..92 => Command::LeaseCheckpoint { id: random.random_range(1..3), remaining: 7 },
        _ => Command::Compact { revision: random.random_range(state.compacted..=state.revision) },
    }
}

/// States with something on disk, something under way to it and something newer.
fn drawn(seed: u64) -> Opened {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = SimulatedDisk::new();
    let backend = Arc::new(Backend::open(&disk, clock(), 1 << 20).unwrap());
    let mut writer = StateWriter::new(Arc::new(disk.clone()), clock(), (1 << 20, 1 << 20));
    let identity = Identity { cluster_id: [7; 16], member_id: 5, epoch: 1 };
    let recovered = Wal::open(Arc::new(disk), identity, 64 << 10, Position::default());
    let mut wal = recovered.unwrap().wal;
    let mut states = [State::default(), State::default()];
    for round in 0..random.random_range(0..4) {
        for state in &mut states {
            for _ in 0..random.random_range(0..60) {
                let command = draw(&mut random, state);
                apply(state, &command);
                state.sweep(random.random_range(0..3));
            }
        }
        let pending = [states[0].begin_flush(), states[1].begin_flush()];
        let (backend, released) = (backend.clone(), wal.take_released(0));
        let (meta, rewrite, retired) = (meta(&states), None, None);
        let job = FlushJob { backend, meta, pending, released, rewrite, retired };
        let views = writer.flush(&job).unwrap().views;
        if round == 2 {
            break;
        }
        for (state, view) in states.iter_mut().zip(views) {
            drop(state.end_flush(view));
        }
    }
    for state in &mut states {
        for _ in 0..random.random_range(0..30) {
            let command = draw(&mut random, state);
            apply(state, &command);
            state.sweep(random.random_range(0..3));
        }
    }
    Opened { states, _backend: backend }
}

fn small() -> [State; KEYSPACES] {
    let mut states = [State::default(), State::default()];
    apply(&mut states[0], &Command::LeaseGrant { id: 4, ttl: 60 });
    apply(&mut states[0], &put("a".into(), b"1".to_vec(), 4));
    apply(&mut states[0], &put("a".into(), vec![b'x'; 100], 0));
    apply(&mut states[1], &put("b".into(), b"3".to_vec(), 0));
    states
}

#[test]
fn a_state_comes_back_as_it_was() {
    for seed in 0..60 {
        println!("seed {seed}");
        let drawn = drawn(seed);
        let states = &drawn.states;
        let mut random = StdRng::seed_from_u64(seed);
        let disk = SimulatedDisk::new();
        let most = if seed % 3 == 0 { 40 } else { 300_000 };
        let imported = import(&disk, &bytes(states), || random.random_range(1..=most)).unwrap();
        let (meta_found, found) = open(&disk);
        assert_eq!(meta_found, meta(states));
        assert_eq!(Meta::decode(&imported.meta), Ok(meta_found));
        assert_eq!(imported.keyspaces, meta(states).keyspaces);
        let dumps = drawn.dumps();
        assert_eq!(found.dumps(), dumps);
        let records: usize = dumps.iter().map(|dump| dump.records.len()).sum();
        assert_eq!(imported.records, records as u64);
        assert_eq!(found.states[0].live_bytes, found.states[0].count_live_bytes());
    }
}

#[test]
fn what_is_applied_while_it_is_written_is_not_in_it() {
    let mut states = small();
    let before = states.each_ref().map(dump);
    let copy = whole(&states);
    apply(&mut states[0], &put("late".into(), b"1".to_vec(), 0));
    let disk = SimulatedDisk::new();
    let written: Vec<_> = copy.chunks().flat_map(Result::unwrap).collect();
    import(&disk, &written, || usize::MAX).unwrap();
    assert_eq!(open(&disk).1.dumps(), before);
}

#[test]
fn the_new_file_survives_a_power_cut_once_it_is_finished() {
    let drawn = drawn(11);
    let disk = SimulatedDisk::new();
    import(&disk, &bytes(&drawn.states), || 100_000).unwrap();
    disk.restart(crate::disk::Crash::PowerLossAll, 1);
    assert_eq!(open(&disk).1.dumps(), drawn.dumps());
}

#[test]
fn a_snapshot_cut_anywhere_is_refused() {
    let snapshot = bytes(&small());
    for length in 0..snapshot.len() {
        let refused = import(&SimulatedDisk::new(), &snapshot[..length], || 13);
        assert!(
            matches!(refused, Err(ImportError::Cut { bytes }) if bytes == length as u64),
            "{length}: {refused:?}"
        );
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let snapshot = bytes(&small());
    for at in 0..snapshot.len() {
        let mut damaged = snapshot.clone();
        damaged[at] ^= 1 << (at % 8);
        let refused = import(&SimulatedDisk::new(), &damaged, || usize::MAX);
        assert!(refused.is_err(), "byte {at} was flipped: {refused:?}");
    }
}

#[test]
fn what_stands_behind_the_end_and_frames_out_of_order_are_refused() {
    let mut snapshot = bytes(&small());
    snapshot.push(0);
    let refused = import(&SimulatedDisk::new(), &snapshot, || usize::MAX);
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!(
            "the snapshot is damaged in the frame at byte {}: there is something behind the end",
            snapshot.len() - 1
        )
    );
    let mut states = small();
    for number in 0..4_u8 {
        let mut random = StdRng::seed_from_u64(number.into());
        let value = (0..200_000).map(|_| random.random()).collect();
        apply(&mut states[1], &put("large".into(), value, 0));
    }
    let mut chunks: Vec<_> = whole(&states).chunks().map(Result::unwrap).collect();
    assert!(chunks.len() > 4, "{}", chunks.len());
    chunks.swap(2, 3);
    assert!(import(&SimulatedDisk::new(), &chunks.concat(), || usize::MAX).is_err());
    chunks.swap(2, 3);
    chunks.remove(2);
    assert!(import(&SimulatedDisk::new(), &chunks.concat(), || usize::MAX).is_err());
}

#[test]
fn other_bytes_and_other_versions_are_told_apart() {
    let refused = import(&SimulatedDisk::new(), &[b'x'; 100], || usize::MAX);
    assert_eq!(refused.unwrap_err().to_string(), "this is not a snapshot of a store");
    let mut newer = MAGIC.to_vec();
    newer.extend_from_slice(&2_u32.to_le_bytes());
    newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
    let refused = import(&SimulatedDisk::new(), &newer, || usize::MAX);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the snapshot has the format 2, and this release reads up to 1; nothing was changed: start the release that wrote it, or a later one"
    );
}

#[test]
fn after_an_error_nothing_can_be_finished() {
    let mut importer = Importer::new(Arc::new(SimulatedDisk::new()), clock(), INCOMING).unwrap();
    assert!(importer.push(&[b'x'; 16]).is_err());
    assert!(matches!(
        importer.push(b"more"),
        Err(ImportError::NotASnapshot | ImportError::GivenUp)
    ));
    assert!(matches!(importer.finish(), Err(ImportError::GivenUp)));
}

#[test]
fn a_full_disk_is_said_at_once() {
    let drawn = drawn(11);
    let disk = SimulatedDisk::new();
    disk.limit_space(Some(2));
    let refused = import(&disk, &bytes(&drawn.states), || 100_000);
    assert!(matches!(refused, Err(ImportError::Store(_))), "{refused:?}");
}
