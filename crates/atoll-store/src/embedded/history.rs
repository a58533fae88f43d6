//! Everything that a keyspace keeps, record by record, for those who write it in another format.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::kv::{Error, History, HistoryRecord, KeyValue, Result};
use crate::mvcc::{ReadFault, Record, RevKey};
use crate::shared::KeyspaceShared;
use crate::sync::read;

/// Keys and values handed over together; one record may be larger.
const BATCH_BYTES: usize = 256 << 10;
/// Batches waiting for a slow reader; the copy then waits too.
const BATCHES_MAX: usize = 4;
/// Which superseded versions have been dropped must not show, so a copy waits until all are.
const SWEEP_LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) async fn open(keyspace: Arc<KeyspaceShared>, patience: Duration) -> Result<History> {
    let deadline = tokio::time::Instant::now() + patience;
    let copy = loop {
        let swept = {
            let state = read(&keyspace.state);
            (!state.needs_sweep()).then(|| state.begin_copy())
        };
        match swept {
            Some(copy) => break copy,
            None if tokio::time::Instant::now() > deadline => {
                return Err(Error::Timeout { maybe_applied: false });
            }
            None => tokio::time::sleep(SWEEP_LOOK_EVERY).await,
        }
    };
    let (batches, received) = mpsc::channel(BATCHES_MAX);
    let header = copy.header.clone();
    // It ends by itself when it is done or the reader has gone.
    drop(tokio::task::spawn_blocking(move || {
        let mut writer = Writer { batches, records: Vec::new(), bytes: 0 };
        let copied = copy.for_each(|at, record| writer.add(at, record));
        if let Err(Stop::Failed(error)) = copied.and_then(|()| writer.send()) {
            drop(writer.batches.blocking_send(Err(error)));
        }
    }));
    Ok(History {
        revision: header.revision,
        compacted_revision: header.compacted,
        leases: header.leases.iter().map(|(id, ttl, _)| (*id, *ttl)).collect(),
        records: ReceiverStream::new(received).boxed(),
    })
}

enum Stop {
    /// Nobody reads any more.
    ReaderGone,
    Failed(Error),
}

impl From<ReadFault> for Stop {
    fn from(fault: ReadFault) -> Self {
        Self::Failed(fault.into())
    }
}

struct Writer {
    batches: mpsc::Sender<Result<Vec<HistoryRecord>>>,
    records: Vec<HistoryRecord>,
    bytes: usize,
}

impl Writer {
    fn add(&mut self, at: RevKey, record: &Record) -> std::result::Result<(), Stop> {
        let kv = if record.tombstone {
            KeyValue { key: record.key.clone(), mod_revision: at.main, ..KeyValue::default() }
        } else {
            record.key_value(at.main)
        };
        self.bytes += kv.key.len() + kv.value.len() + size_of::<HistoryRecord>();
        self.records.push(HistoryRecord { kv, sub: at.sub, deletion: record.tombstone });
        if self.bytes >= BATCH_BYTES { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> std::result::Result<(), Stop> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        self.batches.blocking_send(Ok(records)).map_err(|_gone| Stop::ReaderGone)
    }
}
