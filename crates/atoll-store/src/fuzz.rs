//! Entry points for the fuzzer: what is read from disk and from peers.

use std::sync::Arc;

use bytes::Bytes;

use crate::backend::Meta;
use crate::cluster::Member;
use crate::consensus::{EntryKind, LogEntry, Position};
use crate::core::{
    Ask, Message, SystemCommand, Told, decode_context, decode_system, encode_context, encode_system,
};
use crate::disk::{Disk, SimulatedDisk};
use crate::kv::{
    Compare, CompareTarget, Error, KeyRange, Op, PutRequest, RangeRequest, Relation, Txn,
};
use crate::mvcc::{
    Command, Origin, Record, RevKey, State, decode_batch, encode_batch_header, encode_command,
};
use crate::snapshot::whole::{Importer, WholeCopy};
use crate::wal::format::{BATCH_HEADER_BYTES, BLOCK_BYTES, FRAME_HEADER_BYTES, HardState};
use crate::wal::{Identity, Wal};

/// A log segment: whatever it holds, what is taken lies inside of it and in order.
pub fn segment(bytes: &[u8]) {
    let Ok(segment) = crate::wal::reader::read_segment(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    assert!(segment.tail <= bytes.len() && segment.tail.is_multiple_of(BLOCK_BYTES));
    assert!(segment.last_batch <= segment.tail);
    if let Some(torn) = segment.torn {
        assert!(torn.start == segment.tail && torn.end <= bytes.len());
    }
}

/// A log entry: what is read is written as the same bytes' meaning.
pub fn entry(bytes: &[u8]) {
    let Ok((origin, commands)) = decode_batch(Bytes::copy_from_slice(bytes)) else { return };
    let again = encode_entry(origin, &commands);
    assert_eq!(decode_batch(Bytes::from(again)), Ok((origin, commands)));
}

/// What members say to each other, commands of the store to itself, what goes with a change of
/// members: what is read is written as the same bytes' meaning.
pub fn peer(bytes: &[u8]) {
    let content = Bytes::copy_from_slice(bytes);
    if let Ok(message) = Message::decode(content.clone()) {
        assert_eq!(Message::decode(message.encode()), Ok(message));
    }
    if let Ok((origin, command)) = decode_system(content.clone()) {
        let again = Bytes::from(encode_system(origin, &command));
        assert_eq!(decode_system(again), Ok((origin, command)));
    }
    if let Ok((origin, added)) = decode_context(content) {
        let again = Bytes::from(encode_context(origin, added.as_ref()));
        assert_eq!(decode_context(again), Ok((origin, added)));
    }
}

/// Seeds for [`peer`].
pub fn peers() -> Vec<Vec<u8>> {
    let member = Member {
        id: 7,
        name: "n".to_owned(),
        peer_address: "n:2380".to_owned(),
        client_urls: vec!["https://n:6443".to_owned()],
        is_learner: true,
    };
    let asks = [
        Ask::AddLearner(member.clone()),
        Ask::Promote(7),
        Ask::Remove(7),
        Ask::Update(member.clone()),
        Ask::Transfer(None),
        Ask::KeepAlive { keyspace: 1, id: -3 },
        Ask::LeaseLeft { keyspace: 0, id: 3 },
    ];
    let results = [
        Ok(Told::Done),
        Ok(Told::Member(member.clone())),
        Ok(Told::Seconds(-1)),
        Err(Error::NoLeader),
        Err(Error::NoQuorum { seen: 1, voters: 3 }),
        Err(Error::Timeout { maybe_applied: true }),
        Err(Error::LeaseNotFound { id: 3 }),
        Err(Error::NoSpace { detail: "full".to_owned() }),
        Err(Error::Unavailable { detail: "stopped".to_owned() }),
    ];
    let mut messages = vec![
        Message::Raft(Bytes::from_static(&[8, 1])),
        Message::ChainAsk { index: 300 },
        Message::ChainIs { index: 300, chain: Some(9) },
        Message::Diverged { index: 300, has_majority: true },
        Message::Durable { index: 7 },
        Message::SlowDisk,
        Message::Members(vec![member.clone()]),
    ];
    messages.extend(asks.map(|ask| Message::Ask { number: 5, ask }));
    messages.extend(results.map(|result| Message::Told { number: 5, result }));
    let mut seeds: Vec<_> = messages.iter().map(|message| message.encode().to_vec()).collect();
    let origin = Origin { member_id: 1, epoch: 2, number: 3 };
    let release = SystemCommand::Release { id: 7, release: "1.2.3".to_owned() };
    for command in [SystemCommand::Update(member.clone()), SystemCommand::RaiseLevel(1), release] {
        seeds.push(encode_system(origin, &command));
    }
    seeds.extend([encode_context(origin, Some(&member)), encode_context(origin, None)]);
    seeds
}

/// A record of the state file with its key, and what the file says of itself.
pub fn record(bytes: &[u8]) {
    if let (Some((key, value)), true) = (bytes.split_at_checked(RevKey::BYTES), bytes.len() > 12)
        && let (Ok(key), Ok(record)) =
            (RevKey::decode(key), Record::decode(Bytes::copy_from_slice(value)))
    {
        assert_eq!(RevKey::decode(&key.encode()), Ok(key));
        let (head, value_bytes) = Record::decode_head(value).unwrap_or((record.clone(), 0));
        assert_eq!((head.key, value_bytes as usize), (record.key.clone(), record.value.len()));
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(Record::decode(Bytes::from(again)), Ok(record));
    }
    drop(Meta::decode(bytes));
}

/// A whole store's snapshot: a state file comes of it only when all of it was there.
pub fn whole(bytes: &[u8]) {
    let clock = Arc::new(crate::clock::MonotonicClock::new());
    let disk = Arc::new(SimulatedDisk::new());
    let Ok(mut importer) = Importer::new(disk, clock, "state.incoming") else { return };
    if importer.push(bytes).is_ok() {
        drop(importer.finish());
    }
}

/// Makes every checksum of such a snapshot right.
pub fn with_whole_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if out.len() < 16 {
        return out;
    }
    let mut chain = crc32c::crc32c(&out[..12]);
    out[12..16].copy_from_slice(&chain.to_le_bytes());
    let mut at = 16;
    while out.len() >= at + 12 {
        let end = (at + 12).saturating_add(u32_at(&out, at) as usize).min(out.len());
        let start = crc32c::crc32c_append(crc32c::crc32c(&chain.to_le_bytes()), &out[at..at + 8]);
        chain = crc32c::crc32c_append(start, &out[at + 12..end]);
        out[at + 8..at + 12].copy_from_slice(&chain.to_le_bytes());
        at = end;
    }
    out
}

/// `member.json`.
pub fn member(bytes: &[u8]) {
    if let Ok(member) = serde_json::from_slice::<crate::folder::Member>(bytes) {
        member.cluster_bytes();
    }
}

fn encode_entry(origin: Origin, commands: &[(u8, Command)]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_batch_header(&mut out, origin);
    for (keyspace, command) in commands {
        encode_command(&mut out, *keyspace, command);
    }
    out
}

/// Makes every checksum of a segment right, so that what stands behind them is reached.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    if out.len() < BLOCK_BYTES {
        return out;
    }
    let header = crc32c::crc32c(&out[..BLOCK_BYTES - 4]);
    out[BLOCK_BYTES - 4..BLOCK_BYTES].copy_from_slice(&header.to_le_bytes());
    let mut chain = u32_at(&out, 60);
    let mut tail = BLOCK_BYTES;
    while out.len() >= tail + BATCH_HEADER_BYTES {
        let frames_bytes = u32_at(&out, tail + 4) as usize;
        out[tail + 32..tail + 36].copy_from_slice(&chain.to_le_bytes());
        let checksum = crc32c::crc32c(&out[tail..tail + BATCH_HEADER_BYTES - 4]);
        out[tail + BATCH_HEADER_BYTES - 4..tail + BATCH_HEADER_BYTES]
            .copy_from_slice(&checksum.to_le_bytes());
        let frames = tail + BATCH_HEADER_BYTES;
        let end = frames.saturating_add(frames_bytes).min(out.len());
        chain = with_frame_checksums(&mut out[frames..end], chain);
        tail =
            tail.saturating_add((BATCH_HEADER_BYTES + frames_bytes).next_multiple_of(BLOCK_BYTES));
    }
    out
}

fn with_frame_checksums(frames: &mut [u8], mut chain: u32) -> u32 {
    let mut at = 0;
    while frames.len() >= at + FRAME_HEADER_BYTES {
        let payload = at + FRAME_HEADER_BYTES;
        let end = payload.saturating_add(u32_at(frames, at) as usize);
        if end > frames.len() {
            break;
        }
        let start = crc32c::crc32c(&chain.to_le_bytes());
        let head = crc32c::crc32c_append(start, &frames[at..at + 21]);
        chain = crc32c::crc32c_append(head, &frames[payload..end]);
        frames[at + 21..payload].copy_from_slice(&chain.to_le_bytes());
        at = end;
    }
    chain
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

/// Seeds for [`segment`]: written by the log itself.
pub fn segments() -> Vec<Vec<u8>> {
    let disk = SimulatedDisk::new();
    let identity = Identity { cluster_id: [7; 16], member_id: 5, epoch: 1 };
    let written = Wal::open(Arc::new(disk.clone()), identity, 64 << 10, Position::default());
    let Ok(mut wal) = written.map(|recovered| recovered.wal) else { return Vec::new() };
    let entry = |index: u64, bytes: usize| LogEntry {
        index,
        term: 1,
        kind: EntryKind::Normal,
        payload: vec![b'p'; bytes].into(),
    };
    let state = HardState { term: 1, vote: 5, commit: 1 };
    let mut seeds = Vec::new();
    for (index, bytes) in [(1, 10), (2, 5000), (3, 0)] {
        drop(wal.append(Some(state), &[entry(index, bytes)]));
        seeds.extend(disk.list("wal").ok().and_then(|names| {
            let mut content = disk.read(&format!("wal/{}", names.last()?)).ok()?;
            let used = content.iter().rposition(|byte| *byte != 0)? + 1;
            content.truncate(used.next_multiple_of(BLOCK_BYTES) + BLOCK_BYTES);
            Some(content)
        }));
    }
    seeds
}

fn commands() -> Vec<(u8, Command)> {
    let range = KeyRange::prefix("key/");
    let put = PutRequest { key: "key/1".into(), value: "v".into(), lease: 3, prev_kv: true };
    let inner = Txn { success: vec![Op::Put(put.clone())], ..Txn::default() };
    let targets = [
        CompareTarget::ModRevision(5),
        CompareTarget::CreateRevision(-1),
        CompareTarget::Version(i64::MAX),
        CompareTarget::Lease(0),
        CompareTarget::Value("x".into()),
    ];
    let compare =
        targets.map(|target| Compare { range: range.clone(), relation: Relation::Greater, target });
    let txn = Txn {
        compare: compare.to_vec(),
        success: vec![Op::Put(put), Op::Txn(Box::new(inner))],
        failure: vec![
            Op::Range(RangeRequest::new(range.clone())),
            Op::Delete { range, prev_kv: false },
        ],
    };
    vec![
        (0, Command::Txn(txn)),
        (1, Command::Compact { revision: 9 }),
        (0, Command::LeaseGrant { id: 3, ttl: 60 }),
        (1, Command::LeaseRevoke { id: 3 }),
        (0, Command::LeaseCheckpoint { id: 3, remaining: 1 }),
    ]
}

/// Seeds for [`entry`].
pub fn entries() -> Vec<Vec<u8>> {
    let origin = Origin { member_id: 1, epoch: 2, number: 3 };
    let commands = commands();
    let mut seeds = vec![encode_entry(origin, &commands)];
    seeds.extend(commands.chunks(1).map(|one| encode_entry(origin, one)));
    seeds
}

/// Seeds for [`whole`].
pub fn wholes() -> Vec<Vec<u8>> {
    let mut states = [State::default(), State::default()];
    let empty = WholeCopy::of(b"meta".to_vec(), &states);
    for (keyspace, command) in commands() {
        drop(states[usize::from(keyspace)].apply(&command, &|_| false));
    }
    let written = [empty, WholeCopy::of(Vec::new(), &states)];
    written.map(|copy| copy.chunks().flatten().flatten().collect()).to_vec()
}

/// Seeds for [`record`].
pub fn records() -> Vec<Vec<u8>> {
    [(300, 20), (5, 700)]
        .map(|(key, value)| {
            let record = Record {
                key: vec![b'k'; key].into(),
                value: vec![b'v'; value].into(),
                create_revision: 4,
                version: 2,
                lease: 0,
                tombstone: false,
            };
            let mut out = RevKey { main: 7, sub: 1 }.encode().to_vec();
            record.encode(&mut out);
            out
        })
        .to_vec()
}
