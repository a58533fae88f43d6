//! What a later release has written is refused, wherever it stands, by one that names it, the
//! version found, the one known and the remedy; and it is not taken for damage.

use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::backend::Incoming;
use crate::clock::MonotonicClock;
use crate::consensus::{EntryKind, LogEntry, Position};
use crate::core::{Core, CoreOpenError};
use crate::disk::{Disk, SimulatedDisk};
use crate::embedded::StoreConfig;
use crate::wal::{Identity, Wal};

const SEGMENT_BYTES: u64 = 64 << 10;

/// A folder with a state and a log.
fn folder() -> (Arc<SimulatedDisk>, Identity, Position) {
    let disk = Arc::new(SimulatedDisk::new());
    let Ok(mut core) = open(&disk) else { panic!("it opens") };
    let job = core.start_flush(true).unwrap();
    core.finish_flush(core.state_writer().flush(&job));
    let own = core.shared.cluster.hello(0);
    let identity = Identity { cluster_id: own.cluster_id, member_id: own.from, epoch: own.epoch };
    let place = core.place().0;
    core.stop();
    (disk, identity, place)
}

fn open(disk: &Arc<SimulatedDisk>) -> Result<Core, CoreOpenError> {
    let config = StoreConfig { segment_bytes: SEGMENT_BYTES, ..StoreConfig::default() };
    let mut random = StdRng::seed_from_u64(1);
    let clock = Arc::new(MonotonicClock::new());
    Core::open(disk.clone(), clock, config, &mut random, None).map(|opened| opened.core)
}

#[track_caller]
fn refused(disk: &Arc<SimulatedDisk>, what: &str, found: u64, known: u64) {
    let Err(error) = open(disk) else { panic!("{what} is opened") };
    let newer = error.newer().unwrap_or_else(|| panic!("{what}: {error:?}"));
    assert_eq!((newer.found, newer.known), (found, known), "{newer}");
    assert!(newer.what.contains(what), "{newer}");
    let text = newer.to_string();
    assert!(text.contains("start the release that wrote it"), "{text}");
}

fn append(disk: &Arc<SimulatedDisk>, identity: Identity, at: Position, payload: &[u8]) {
    let recovered = Wal::open(disk.clone(), identity, SEGMENT_BYTES, at).unwrap();
    let index = recovered.last(at).index + 1;
    let payload = payload.to_vec().into();
    let entry = LogEntry { index, term: at.term, kind: EntryKind::Normal, payload };
    let mut wal = recovered.wal;
    wal.append(None, &[entry]).unwrap();
}

#[test]
fn the_member_file() {
    let (disk, _, _) = folder();
    let text = String::from_utf8(disk.read("member.json").unwrap()).unwrap();
    // A later release may have made something else of the rest.
    let text = text.replace("\"format\": 2", "\"format\": 9").replace("\"epoch\"", "\"age\"");
    disk.replace("", "member.json", text.as_bytes()).unwrap();
    refused(&disk, "member.json", 9, 2);
}

#[test]
fn a_log_segment() {
    let (disk, _, _) = folder();
    let name = format!("wal/{}", disk.list("wal").unwrap().pop().unwrap());
    let mut bytes = disk.read(&name).unwrap();
    bytes[8..12].copy_from_slice(&7_u32.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    let file = disk.open(&name, false).unwrap();
    file.write_at(0, &bytes[..4096]).unwrap();
    file.sync().unwrap();
    refused(&disk, &name, 7, 1);
}

#[test]
fn entries_of_the_log() {
    for (payload, what, known) in
        [(&[9][..], "an entry of the log", 1), (&[0x80, 9], "an entry of the store to itself", 2)]
    {
        let (disk, identity, place) = folder();
        append(&disk, identity, place, payload);
        refused(&disk, what, 9, known);
    }
}

#[test]
fn the_format_level_of_the_log() {
    let (disk, identity, place) = folder();
    let origin = crate::mvcc::Origin { member_id: 5, epoch: 1, number: 1 };
    let raised = crate::core::SystemCommand::RaiseLevel(9);
    append(&disk, identity, place, &crate::core::encode_system(origin, &raised));
    refused(&disk, "what the servers replicate", 9, 2);
}

#[test]
fn the_state_file() {
    let (disk, _, _) = folder();
    disk.remove("state.redb").unwrap();
    let clock = Arc::new(MonotonicClock::new());
    Incoming::create(disk.clone(), clock, "state.redb").unwrap().finish(&[9, 0]).unwrap();
    refused(&disk, "state.redb", 9, 3);
}
