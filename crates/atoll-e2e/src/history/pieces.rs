//! Where a piece of the history ends: what all servers say happened, and whether that agrees
//! with what everybody was told.

use super::{
    clients::{Client, hold_leases},
    faults,
    link::Link,
    record::Shared,
    report::Report,
    servers::Servers,
    watchers::Watcher,
};
use atoll_history::{Change, Checker, Found, How, Range, Watched, Window};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

/// A server that was killed or that has to take the whole state over is back sooner.
const SERVES_MAX: Duration = Duration::from_secs(120);
/// A read at one revision, of a server that may be a little behind.
const READ_MAX: Duration = Duration::from_secs(20);
/// Keys of a lease go this much later than it at the latest, on servers that nobody disturbs.
const OUTLIVES_MAX: Duration = Duration::from_secs(25);
/// Leases are looked at this long after their end.
const LEASES_KEPT: u64 = 120_000_000_000;

/// What goes on while servers are disturbed.
pub(super) struct Load {
    pub(super) shared: Arc<Shared>,
    tasks: JoinSet<()>,
    seed: u64,
    watchers: u64,
    pieces: u64,
    checker: Checker,
}

/// Watchers, and how they are told where the piece ends.
pub(super) struct Piece {
    start: i64,
    end: watch::Sender<Option<i64>>,
    watchers: Vec<JoinHandle<Result<Vec<Watched>, String>>>,
}

impl Load {
    pub(super) fn start(
        servers: &Servers,
        seed: u64,
        clients: u64,
        think_ms: u64,
        is_lying: bool,
    ) -> Self {
        let places = servers.net.places.iter().map(super::net::Space::path).collect();
        let shared = Arc::new(Shared::new(places, is_lying));
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            tasks.spawn(Client::new(number, seed, shared.clone(), think_ms).run());
        }
        for number in 0..clients.div_ceil(6) {
            tasks.spawn(hold_leases(number, seed, shared.clone()));
        }
        let watchers = clients.div_ceil(4);
        Self { shared, tasks, seed, watchers, pieces: 0, checker: Checker::default() }
    }

    pub(super) fn begin(&mut self) -> Piece {
        self.pieces += 1;
        let (end, told) = watch::channel(None);
        let start = self.checker.revision() + 1;
        let watchers = (0..self.watchers).map(|number| {
            let seed = self.seed ^ (self.pieces << 20);
            let shared = self.shared.clone();
            tokio::spawn(Watcher::new(number, seed, shared, start, told.clone()).run(None))
        });
        Piece { start, end, watchers: watchers.collect() }
    }

    /// Ends the piece, and says in the report what is wrong with it.
    pub(super) async fn end(&mut self, piece: Piece, servers: &mut Servers, report: &mut Report) {
        faults::heal(servers);
        let shared = self.shared.clone();
        let alone = shared.gate.write().await;
        let (mut end, mut links) = (0, Vec::new());
        for number in 0..servers.count() {
            servers.serves(number, SERVES_MAX).await;
            links.push(servers.link(number));
        }
        for link in &links {
            end = end.max(patiently(|| link.revision()).await);
        }
        piece.end.send_replace(Some(end));
        let mut watches = Vec::new();
        for watcher in piece.watchers {
            match watcher.await.unwrap() {
                Ok(watched) => watches.extend(watched),
                Err(problem) => report.violations.push(problem),
            }
        }
        let changes = self.changes(piece.start, end, servers, report).await;
        self.check(&changes, &watches, report);
        self.compare_states(&links, end, report).await;
        shared.base.store(end, Ordering::Relaxed);
        let left = self.leased().map(|found| found.key.clone()).collect();
        shared.forget_leases(shared.now().saturating_sub(LEASES_KEPT), &left);
        report.ended = servers.ended;
        drop(alone);
        if self.pieces.is_multiple_of(2) {
            let link = links.swap_remove(usize::try_from(self.pieces).unwrap() % links.len());
            // While the next piece begins; one that fails is made up for by the next.
            tokio::spawn(async move { link.compact(end).await.ok() });
        }
    }

    /// As each server gives them, which has to be the same.
    async fn changes(
        &self,
        start: i64,
        end: i64,
        servers: &Servers,
        report: &mut Report,
    ) -> Vec<Change> {
        let mut logs: Vec<Vec<Change>> = Vec::new();
        for number in 0..servers.count() {
            let (_sender, told) = watch::channel(Some(end));
            let watcher = Watcher::new(0, self.seed, self.shared.clone(), start, told);
            match watcher.run(Some(number)).await {
                Ok(watched) => {
                    let batches = watched.into_iter().flat_map(|one| one.batches);
                    logs.push(batches.flat_map(|batch| batch.changes).collect());
                }
                Err(problem) => report.violations.push(format!("server {number}: {problem}")),
            }
        }
        let mut logs = logs.into_iter();
        let first = logs.next().unwrap_or_default();
        if logs.any(|log| log != first) {
            let problem = format!("the servers have different histories from {start} to {end}");
            report.violations.push(problem);
        }
        first
    }

    fn check(&mut self, changes: &[Change], watches: &[Watched], report: &mut Report) {
        let record = self.shared.take();
        let leases: Vec<_> = record.leases.into_values().collect();
        let window =
            Window { changes, calls: &record.calls, watches, leases: &leases, seen: &record.seen };
        let begun = Instant::now();
        let problems = self.checker.check(&window);
        report.count(&window, begun.elapsed());
        report.unchecked = self.checker.unchecked();
        report.violations.extend(problems);
    }

    /// Each server's state at the end is the one that the changes make.
    async fn compare_states(&self, links: &[Link], end: i64, report: &mut Report) {
        let wanted: Vec<&Found> = self.checker.state().collect();
        let (all, mut hashes) = (Range::all(), Vec::new());
        for (number, link) in links.iter().enumerate() {
            let (_, found) = patiently(|| link.range(&all, How::At(end))).await;
            if !found.iter().eq(wanted.iter().copied()) {
                let problem = format!("server {number} has another state at {end}: {found:?}");
                report.violations.push(format!("{problem}, not {wanted:?}"));
            }
            hashes.push(patiently(|| link.hash(end)).await);
        }
        if hashes.iter().any(|hash| *hash != hashes[0]) {
            report.violations.push(format!("the servers' hashes at {end} differ: {hashes:?}"));
        }
    }

    fn leased(&self) -> impl Iterator<Item = &Found> {
        self.checker.state().filter(|found| found.key.starts_with("lease/"))
    }

    /// Ends everything that goes on; `with_leases` waits until the last have run out.
    pub(super) async fn stop(
        mut self,
        servers: &mut Servers,
        report: &mut Report,
        with_leases: bool,
    ) {
        self.shared.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        if !with_leases {
            return;
        }
        let piece = self.begin();
        sleep(OUTLIVES_MAX).await;
        self.end(piece, servers, report).await;
        let left: Vec<_> = self.leased().collect();
        if !left.is_empty() {
            report.violations.push(format!("keys outlived their leases: {left:?}"));
        }
    }
}

/// Until there is an answer: nothing is in the way any more.
async fn patiently<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let start = Instant::now();
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert!(start.elapsed() < READ_MAX, "{status}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}
