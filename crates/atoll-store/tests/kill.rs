//! A process that writes is killed with -9 again and again: what it had reported as written must
//! be there.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_store::kv::{KeyRange, Op, PutRequest, RangeRequest, Txn};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tempfile::TempDir;

const ROUNDS: u64 = 8;
const WRITERS: usize = 8;

fn config(dir: PathBuf) -> StoreConfig {
    // Small, so that flushes, new segments and released ones fall into the run.
    StoreConfig { dir, segment_bytes: 1 << 20, flush_operations: 300, ..StoreConfig::default() }
}

/// Not a test by itself: the process that is killed. The folder comes on its input.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test below"]
async fn child_that_writes_until_it_is_killed() {
    let mut dir = String::new();
    std::io::stdin().read_line(&mut dir).expect("a folder on the input");
    if dir.trim().is_empty() {
        return;
    }
    let store = EmbeddedStore::open(config(dir.trim().into())).await.expect("the folder opens");
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let kv = store.keyspace(Keyspace::Cluster);
        tasks.spawn(async move {
            for number in 0_u64.. {
                let put = PutRequest {
                    key: format!("key/{writer}/{}", number % 50).into(),
                    value: format!("{number:0600}").into(),
                    lease: 0,
                    prev_kv: false,
                };
                let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
                let revision = kv.txn(txn).await.expect("the write succeeds").revision;
                let line = format!("ack {writer} {} {number} {revision}\n", number % 50);
                std::io::stdout().write_all(line.as_bytes()).expect("the parent listens");
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let dir = TempDir::new().expect("a temporary folder");
    let mut last_revision = 1;
    for round in 0..ROUNDS {
        let acknowledged = run_child(&dir, Duration::from_millis(120 + 40 * round));
        let store = EmbeddedStore::open(config(dir.path().into())).await.expect("it opens again");
        let kv = store.keyspace(Keyspace::Cluster);
        let found = kv.range(RangeRequest::new(KeyRange::prefix("key/"))).await.expect("readable");
        for (key, number, revision) in acknowledged {
            let kept = found.kvs.iter().find(|kv| kv.key == key.as_bytes()).expect("the key");
            // A later write that was not acknowledged may have happened too.
            assert!(kept.mod_revision >= revision, "{key}: {kept:?} is older than {revision}");
            if kept.mod_revision == revision {
                assert_eq!(kept.value, format!("{number:0600}"));
            }
            assert!(found.revision >= revision);
        }
        assert!(found.revision >= last_revision, "the revision fell");
        last_revision = found.revision;
        store.shutdown().await;
    }
    assert!(last_revision > 50, "the child wrote next to nothing");
}

/// Lets a child write for a while, kills it, and returns what it said was written.
fn run_child(dir: &TempDir, time: Duration) -> Vec<(String, u64, i64)> {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let mut input = child.stdin.take().expect("its input");
    writeln!(input, "{}", dir.path().display()).expect("it listens");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let reader = std::thread::spawn(move || {
        output.lines().map_while(Result::ok).filter_map(|line| parse(&line)).collect::<Vec<_>>()
    });
    std::thread::park_timeout(time);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    reader.join().expect("its output ends with it")
}

fn parse(line: &str) -> Option<(String, u64, i64)> {
    let mut words = line.strip_prefix("ack ")?.split(' ');
    let (writer, key) = (words.next()?, words.next()?);
    Some((format!("key/{writer}/{key}"), words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
