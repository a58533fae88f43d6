//! Writes a store's folder and its snapshot as this release writes them, small enough to be kept:
//! `cargo run -p atoll-store --example golden -- FOLDER`. `tests/golden.rs` opens what all releases
//! have left, and says what must be in it.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use atoll_store::kv::{KeyRange, KvStore, Op, PutRequest, Txn};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::StreamExt as _;

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let out = std::env::args().nth(1).ok_or("usage: golden FOLDER")?;
    let out = Path::new(&out);
    fs::create_dir_all(out)?;
    let dir = std::env::temp_dir().join(format!("atoll-golden-{}", std::process::id()));
    let written = write(&dir, out).await;
    fs::remove_dir_all(&dir)?;
    written
}

async fn write(dir: &Path, out: &Path) -> Outcome {
    let config = || StoreConfig {
        dir: dir.to_owned(),
        segment_bytes: 64 << 10,
        cache_bytes: 1 << 20,
        ..StoreConfig::default()
    };
    let store = EmbeddedStore::open(config()).await?;
    let kv = Keyspace::ALL.map(|keyspace| store.keyspace(keyspace));
    for keyspace in &kv {
        put(keyspace, "kept", "first", 0).await?;
        put(keyspace, "kept", "second", 0).await?;
        put(keyspace, "gone", "1", 0).await?;
        keyspace.lease_grant(77, 1_000_000).await?;
        put(keyspace, "leased", "x", 77).await?;
        delete(keyspace, "gone").await?;
    }
    kv[1].compact(3).await?;
    // Several segments, the first of which are not needed any more.
    for number in 0..12 {
        put(&kv[0], "large", &format!("{number}").repeat(9000), 0).await?;
    }
    // So far it stands in the state file, what follows in the log only.
    store.shutdown().await;
    let store = EmbeddedStore::open(config()).await?;
    let kv = Keyspace::ALL.map(|keyspace| store.keyspace(keyspace));
    put(&kv[0], "in the log", "a", 0).await?;
    put(&kv[1], "in the log", "b", 0).await?;
    // As a kill leaves it.
    copy(dir, out)?;
    let mut chunks = store.snapshots().take().await?.chunks;
    let mut snapshot = Vec::new();
    while let Some(chunk) = chunks.next().await {
        snapshot.extend_from_slice(&chunk?);
    }
    fs::write(out.join("snapshot"), snapshot)?;
    store.shutdown().await;
    Ok(())
}

async fn put(kv: &Arc<dyn KvStore>, key: &str, value: &str, lease: i64) -> Outcome {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    let put = Op::Put(PutRequest { key, value, lease, prev_kv: false });
    kv.txn(Txn { success: vec![put], ..Txn::default() }).await?;
    Ok(())
}

async fn delete(kv: &Arc<dyn KvStore>, key: &str) -> Outcome {
    let range = KeyRange::single(key.to_owned());
    kv.txn(Txn { success: vec![Op::Delete { range, prev_kv: false }], ..Txn::default() }).await?;
    Ok(())
}

/// The files, most of which are zeros, compressed; a segment's folder is in its name.
fn copy(dir: &Path, out: &Path) -> Outcome {
    for folder in ["", "wal"] {
        for entry in fs::read_dir(dir.join(folder))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_dir() || name == "lock" {
                continue;
            }
            let content = zstd::bulk::compress(&fs::read(entry.path())?, 19)?;
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}+") };
            fs::write(out.join(format!("{prefix}{name}.zst")), content)?;
        }
    }
    Ok(())
}
