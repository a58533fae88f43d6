//! Members that are killed: what they acknowledged is there, and they agree.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::request_op::Request as Op;
use atoll_etcd::proto::etcdserverpb::{
    CompactionRequest, DefragmentRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use atoll_etcd::server::Config;
use atoll_store::disk::Crash;
use atoll_store::simulation::{Fault, Plan, run};
use atoll_store::{EmbeddedStore, StoreConfig};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::load::{Acknowledged, Load, assert_agreement, assert_kept, everything, put};
use crate::raw::Raw;
use crate::served::{Api, Served};

const SERVES: &str = "child_that_serves_until_it_is_killed";
const ADDRESS: &str = "address ";

/// Not a test by itself: the process that is killed. The folder comes on its input, which ends
/// with its parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the tests below"]
async fn child_that_serves_until_it_is_killed() {
    let mut input = BufReader::new(std::io::stdin());
    let mut dir = String::new();
    input.read_line(&mut dir).expect("a folder on the input");
    if dir.trim().is_empty() {
        return;
    }
    // Small, so that files are written and end within a run.
    let config = StoreConfig {
        dir: dir.trim().into(),
        segment_bytes: 4 << 20,
        flush_operations: 100,
        ..StoreConfig::default()
    };
    let store = EmbeddedStore::open(config).await.expect("the folder opens");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let api = Api::open(&store, any, Config { cluster_id: 7, ..Config::default() }).await;
    let line = format!("\n{ADDRESS}{}\n", api.address);
    std::io::stdout().write_all(line.as_bytes()).expect("the parent listens");
    tokio::task::spawn_blocking(move || input.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
}

/// A process of its own with one member in it.
struct Child {
    process: std::process::Child,
    address: SocketAddr,
}

impl Child {
    fn start(dir: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", &format!("kills::{SERVES}"), "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        writeln!(process.stdin.as_mut().expect("its input"), "{}", dir.display()).unwrap();
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let mut lines = output.lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix(ADDRESS)?.parse().ok());
        Self { process, address: address.expect("it serves") }
    }

    fn kill(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it was our child");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn seeded() -> StdRng {
    let seed = rand::random();
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_13766_members_agree_after_kills_under_load_with_snapshots_every_100_entries() {
    let mut random = seeded();
    let store = StoreConfig {
        log_entries_max: 100,
        log_bytes_max: 256 << 10,
        flush_operations: 100,
        ..StoreConfig::default()
    };
    let mut served = Served::start_with(3, store, Config::default()).await;
    let addresses: Vec<_> = (0..3).map(|number| served.address(number)).collect();
    let load = Load::start("w", &addresses, 24);
    for round in 0..3 {
        load.more(100).await;
        let killed = match round {
            0 => served.members.leader().await.unwrap(),
            _ => random.random_range(0..3),
        };
        let address = served.kill(killed).await;
        load.more(150).await;
        served.start_again(killed, address).await;
    }
    load.more(100).await;
    let acknowledged = load.stop().await;
    for number in 0..3 {
        assert_kept(&mut Raw::open(served.address(number)).await, &acknowledged).await;
    }
    println!("{} acknowledged", acknowledged.len());
    assert_agreement(&served).await;
}

/// Every other time it defragments meanwhile, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_14370_one_member_killed_before_or_after_its_log_is_written_loses_no_acknowledged_write()
 {
    let (dir, mut random) = (TempDir::new().unwrap(), seeded());
    let mut acknowledged = Acknowledged::new();
    for round in 0..6 {
        let child = Child::start(dir.path());
        let mut raw = Raw::open(child.address).await;
        assert_kept(&mut raw, &acknowledged).await;
        let load = Load::start(&format!("w{round}"), &[child.address], 8);
        load.more(random.random_range(20..200)).await;
        if round % 2 == 1 {
            raw.maintenance.defragment(DefragmentRequest {}).await.unwrap();
        }
        tokio::time::sleep(Duration::from_micros(random.random_range(0..10_000))).await;
        child.kill();
        acknowledged.extend(load.stop().await);
    }
    let child = Child::start(dir.path());
    assert_kept(&mut Raw::open(child.address).await, &acknowledged).await;
    println!("{} acknowledged", acknowledged.len());
}

/// The same at every write and sync of one disk, in virtual time.
#[test]
fn bug_14370_power_lost_at_any_write_to_the_disk_loses_no_acknowledged_write() {
    let plan = |fault| Plan { seed: 14_370, steps: 12, fault };
    let operations = run(plan(Fault::None)).expect("nothing goes wrong").disk_operations;
    for operation in 1..=operations {
        for crash in [Crash::PowerLossAll, Crash::Kill] {
            let fault = Fault::CrashAt(operation, crash);
            if let Err(violation) = run(plan(fault)) {
                panic!("{fault:?}: {violation}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_14685_a_member_killed_while_it_defragments_agrees_with_the_others() {
    let store = StoreConfig { flush_operations: 50, ..StoreConfig::default() };
    let mut served = Served::start_with(3, store, Config::default()).await;
    let addresses: Vec<_> = (0..3).map(|number| served.address(number)).collect();
    let load = Load::start("w", &addresses, 12);
    for killed in 0..3 {
        load.more(60).await;
        let mut raw = Raw::open(served.address(killed)).await;
        let mut asked = JoinSet::new();
        asked.spawn(async move {
            // It dies somewhere in one of these.
            while raw.maintenance.defragment(DefragmentRequest {}).await.is_ok() {}
        });
        let revision = {
            let mut other = Raw::open(served.address(served.other_than(killed))).await;
            put(&mut other, "compacted", "v").await.unwrap_or(1)
        };
        if let Ok(mut raw) = tokio::time::timeout(
            Duration::from_secs(5),
            Raw::open(served.address(served.other_than(killed))),
        )
        .await
        {
            let compaction = CompactionRequest { revision, physical: false };
            drop(raw.kv.compact(compaction).await);
        }
        let address = served.kill(killed).await;
        asked.join_all().await;
        load.more(40).await;
        served.start_again(killed, address).await;
    }
    let acknowledged = load.stop().await;
    for number in 0..3 {
        assert_kept(&mut Raw::open(served.address(number)).await, &acknowledged).await;
    }
    assert_agreement(&served).await;
}

fn many(round: u64) -> TxnRequest {
    let puts = (0..100).map(|key| PutRequest {
        key: format!("k{key}").into(),
        value: format!("{round}").into(),
        ..PutRequest::default()
    });
    let success = puts.map(|put| RequestOp { request: Some(Op::RequestPut(put)) }).collect();
    TxnRequest { success, ..TxnRequest::default() }
}

/// All keys are deleted and compacted, so that nothing that is left shows how far it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bug_17780_the_revision_never_falls_when_a_compaction_is_cut_off() {
    let (dir, mut random) = (TempDir::new().unwrap(), seeded());
    let mut revision = 1;
    for _ in 0..6 {
        let child = Child::start(dir.path());
        let mut raw = Raw::open(child.address).await;
        let found = everything(&mut raw).await;
        assert_eq!(found.count, 0, "what was deleted is there again");
        assert_eq!(found.header.unwrap().revision, revision, "after a kill");
        // More than three batches of an etcd's compaction.
        for write in 0..10 {
            raw.kv.txn(many(write)).await.unwrap();
        }
        let all = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), prev_kv: false };
        let deleted = raw.kv.delete_range(all).await.unwrap().into_inner();
        revision = deleted.header.unwrap().revision;
        let compaction = CompactionRequest { revision, physical: true };
        let mut compacting = raw.clone();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { compacting.kv.compact(compaction).await });
        tokio::time::sleep(Duration::from_micros(random.random_range(0..20_000))).await;
        child.kill();
        waiting.join_all().await;
    }
    let child = Child::start(dir.path());
    let mut raw = Raw::open(child.address).await;
    assert_eq!(everything(&mut raw).await.header.unwrap().revision, revision);
    assert_eq!(put(&mut raw, "k0", "next").await.unwrap(), revision + 1);
}
