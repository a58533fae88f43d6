//! Files of one of three members are changed behind its back, at random, again and again: each time
//! that is found or does not matter, and nobody ever reads what was not written.
//!
//! The seed is printed; `ATOLL_DAMAGE_SEED` and `ATOLL_DAMAGE_ROUNDS` repeat or lengthen a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_store::kv::{
    Consistency, Error, KeyRange, KeyValue, Op, PutRequest, RangeRequest, Revision, Txn,
};
use atoll_store::testing::{TestCluster, TestError};
use atoll_store::{EmbeddedStore, Keyspace, OpenError, StoreConfig};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;

const SERVERS: usize = 3;
const KEYS: u32 = 40;
/// A member that is whole reads consistently sooner, and one that is not learns it sooner.
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

fn setting(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "only a person sets it, to repeat a run")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Everything that was acknowledged: the present, and every version that ever was.
#[derive(Default)]
struct Model {
    present: BTreeMap<String, (Revision, Vec<u8>)>,
    versions: BTreeMap<(String, Revision), Vec<u8>>,
}

impl Model {
    async fn write(&mut self, store: &EmbeddedStore, random: &mut StdRng, count: usize) {
        for _ in 0..count {
            let key = format!("key/{}", random.random_range(0..KEYS));
            let length = random.random_range(0..3_000);
            let value: Vec<u8> = (0..length).map(|_| random.random()).collect();
            let put = PutRequest {
                key: key.clone().into(),
                value: value.clone().into(),
                lease: 0,
                prev_kv: false,
            };
            let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
            let done = store.keyspace(Keyspace::Cluster).txn(txn).await.expect("a majority writes");
            self.versions.insert((key.clone(), done.revision), value.clone());
            self.present.insert(key, (done.revision, value));
        }
    }

    fn is_present(&self, found: &[KeyValue]) -> bool {
        found.len() == self.present.len()
            && found.iter().zip(&self.present).all(|(kv, (key, (revision, value)))| {
                kv.key == key && kv.mod_revision == *revision && kv.value == value
            })
    }

    /// A stale read may be of before, but never of what was not written.
    fn assert_was(&self, found: &[KeyValue], what: &str) {
        for kv in found {
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let known = self.versions.get(&(key.clone(), kv.mod_revision));
            assert!(known.is_some_and(|value| kv.value == value), "{what}: a wrong {key} was read");
        }
    }
}

async fn all(store: &EmbeddedStore, consistency: Consistency) -> Result<Vec<KeyValue>, Error> {
    let mut request = RangeRequest::new(KeyRange::prefix("key/"));
    request.consistency = consistency;
    Ok(store.keyspace(Keyspace::Cluster).range(request).await?.kvs)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("there is a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.file_name().is_some_and(|name| name != "lock") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    for file in files(from) {
        let place = to.join(file.strip_prefix(from).expect("below it"));
        fs::create_dir_all(place.parent().expect("a folder")).expect("made");
        fs::copy(file, place).expect("copied");
    }
}

/// Does something to a folder; says what. `former` holds a copy of it, of the same member, if any.
fn damage(folder: &Path, former: &Path, random: &mut StdRng) -> String {
    let all = files(folder);
    // The smallest file is one of three, and the least interesting.
    let is_member = |file: &&PathBuf| file.ends_with("member.json");
    let all: Vec<_> = all.iter().filter(|one| !is_member(one) || random.random_bool(0.2)).collect();
    let file = all[random.random_range(0..all.len())];
    let content = fs::read(file).expect("readable");
    let name = file.strip_prefix(folder).expect("below it").display();
    // Most of a log is empty: what is in use is of interest.
    let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    match random.random_range(0..10) {
        0 if former.is_dir() => {
            copy(former, folder);
            "an old copy of the folder".to_owned()
        }
        1 => {
            fs::remove_file(file).expect("removed");
            format!("{name} is removed")
        }
        2 | 3 => {
            let length = random.random_range(0..=used);
            fs::write(file, &content[..length]).expect("written");
            format!("{name} is cut to {length} of {used}")
        }
        _ => {
            let (at, bit) = (random.random_range(0..used.max(1)), random.random_range(0..8));
            let mut content = content;
            content[at] ^= 1 << bit;
            fs::write(file, content).expect("written");
            format!("{name}: bit {bit} at {at} of {used} is flipped")
        }
    }
}

/// Whether the damage was found; if not, the member has proven to be whole.
async fn is_found(cluster: &mut TestCluster, victim: usize, model: &Model, what: &str) -> bool {
    match cluster.open(victim).await {
        Ok(()) => {}
        Err(TestError::Open(OpenError::Corrupt { .. })) => return true,
        // A changed number of the format looks like a later release's.
        Err(TestError::Open(OpenError::Newer { .. })) if what.starts_with("member.json") => {
            return true;
        }
        Err(other) => panic!("{what}: {other:?}"),
    }
    let store = cluster.store(victim);
    let deadline = Instant::now() + KNOWN_WITHIN;
    loop {
        if let Ok(found) = all(store, Consistency::Serializable).await {
            model.assert_was(&found, what);
        }
        match all(store, Consistency::Linearizable).await {
            Ok(found) if model.is_present(&found) => return false,
            Ok(found) => panic!("{what}: a wrong read of {} keys", found.len()),
            Err(error) if Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) if store.unfit().is_some() => break,
            // Its state could not be read: whoever opens it again learns why.
            Err(_) if store.failure().is_some() => {
                cluster.stop(victim).await;
                return Box::pin(is_found(cluster, victim, model, what)).await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    assert!(all(store, Consistency::Serializable).await.is_err(), "{what}: it still answers");
    cluster.stop(victim).await;
    true
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "the seed and the numbers of a run")]
async fn whatever_is_changed_is_found_or_does_not_matter() {
    let seed = setting("ATOLL_DAMAGE_SEED").unwrap_or_else(rand::random);
    let rounds = setting("ATOLL_DAMAGE_ROUNDS").unwrap_or(8);
    println!("ATOLL_DAMAGE_SEED={seed} ATOLL_DAMAGE_ROUNDS={rounds}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = TempDir::new().expect("a temporary folder");
    let config = StoreConfig {
        log_entries_max: 100,
        segment_bytes: 256 << 10,
        flush_every: Duration::from_millis(100),
        flush_few_every: Duration::from_millis(100),
        ..StoreConfig::default()
    };
    let started = TestCluster::start_with(dir.path(), SERVERS, config).await;
    let (mut cluster, mut model, mut found) = (started.expect("it starts"), Model::default(), 0);
    for round in 0..rounds {
        let victim = random.random_range(0..SERVERS);
        let other = (victim + 1) % SERVERS;
        model.write(cluster.store(victim), &mut random, 15).await;
        cluster.kill(victim).await;
        let folder = dir.path().join(format!("m{victim}"));
        let former = dir.path().join(format!("former{victim}"));
        let what = damage(&folder, &former, &mut random);
        model.write(cluster.store(other), &mut random, 15).await;
        let is_found = is_found(&mut cluster, victim, &model, &what).await;
        println!(
            "round {round}: m{victim}, {what}: {}",
            if is_found { "found" } else { "harmless" }
        );
        found += u64::from(is_found);
        if is_found {
            cluster.replace(victim).await.expect("a new member");
            fs::remove_dir_all(&former).ok();
        } else {
            cluster.stop(victim).await;
            copy(&folder, &former);
            cluster.open(victim).await.expect("it is whole");
        }
        for number in 0..SERVERS {
            let read = all(cluster.store(number), Consistency::Linearizable).await;
            assert!(model.is_present(&read.expect("readable")), "{what}: m{number} after it");
        }
    }
    println!("{found} of {rounds} found, the others harmless");
    assert!(rounds < 8 || found > 0, "nothing was found");
}

async fn lead(cluster: &TestCluster, number: usize) {
    let id = cluster.store(number).member_id();
    let deadline = Instant::now() + KNOWN_WITHIN;
    while cluster.leader().await.expect("somebody leads") != number {
        assert!(Instant::now() < deadline, "m{number} does not lead");
        // It may not have caught up yet.
        cluster.store(number).cluster().transfer_leadership(Some(id)).await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a leader acknowledges together with one follower counts its own disk.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_leaders_folder_is_found_too() {
    let dir = TempDir::new().expect("a temporary folder");
    let (folder, former) = (dir.path().join("m0"), dir.path().join("former"));
    let mut random = StdRng::seed_from_u64(1);
    let mut cluster = TestCluster::start(dir.path(), SERVERS).await.expect("it starts");
    let mut model = Model::default();
    model.write(cluster.store(0), &mut random, 3).await;
    cluster.kill(0).await;
    copy(&folder, &former);
    cluster.open(0).await.expect("it is whole");
    lead(&cluster, 0).await;
    model.write(cluster.store(0), &mut random, 5).await;
    // The others are told with its next ticks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.kill(0).await;
    copy(&former, &folder);
    assert!(is_found(&mut cluster, 0, &model, "an old copy of a leader").await);
    for number in 1..SERVERS {
        let read = all(cluster.store(number), Consistency::Linearizable).await;
        assert!(model.is_present(&read.expect("a majority is there")), "m{number}");
    }
}
