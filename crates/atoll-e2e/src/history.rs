//! Histories of real clusters: servers in network namespaces are killed, stopped, cut off and
//! given bad disks, while clients of the etcd API write down what they are told; then
//! `atoll_history` looks for what a correct store could not have said.
//!
//! What is done to the servers follows from the seed; when clients call does not.

mod clients;
mod convert;
mod faults;
mod kills;
mod link;
mod net;
mod net_connect;
mod pieces;
mod record;
mod report;
mod servers;
mod slow;
mod sweep;
mod watchers;

pub use faults::Fault;
pub use report::{Report, Totals};
pub use slow::Under;

use faults::{Deck, Length};
use pieces::Load;
use rand::{SeedableRng as _, rngs::StdRng};
use servers::Servers;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub servers: usize,
    pub clients: u64,
    /// The longest time between two calls of a client.
    pub think_ms: u64,
    pub program: PathBuf,
    pub plan: Plan,
    /// How long a piece of the history is before it is checked.
    pub piece: Duration,
    /// A planted bug: stale reads that pass for fresh ones.
    pub is_lying: bool,
    /// Whether the end waits until all leases have run out.
    pub with_leases: bool,
}

#[derive(Debug, Clone)]
pub enum Plan {
    /// Faults of these kinds until so many operations have been done; each once at least.
    Faults { kinds: Vec<Fault>, operations: u64, ms_min: u64, ms_max: u64 },
    /// Kills of the leader, alone or with another.
    Kills { count: u64, with_another: bool },
    /// Rounds with a slow disk.
    SlowDisk { under: Under, rounds: u64 },
}

/// Ends at the first violation; what the servers wrote is kept then.
pub fn run(options: &Options, mut progress: impl FnMut(&Report)) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    sweep::sweep();
    let folder = tempfile::Builder::new().prefix(&sweep::prefix()).tempdir().unwrap();
    let report = runtime.block_on(async {
        let mut servers = Servers::start(options.servers, &options.program, folder.path()).await;
        go(options, &mut servers, &mut progress).await
    });
    // Those of a planted bug are of no use to anybody.
    if !report.violations.is_empty() && !options.is_lying {
        eprintln!("the servers' folders and logs are kept in {}", folder.keep().display());
    }
    report
}

async fn go(
    options: &Options,
    servers: &mut Servers,
    progress: &mut impl FnMut(&Report),
) -> Report {
    let mut load =
        Load::start(servers, options.seed, options.clients, options.think_ms, options.is_lying);
    let mut report = Report::default();
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut disturbance = Disturbance::new(&options.plan);
    while report.violations.is_empty() && !disturbance.is_over(&report) {
        let piece = load.begin();
        let begun = Instant::now();
        while begun.elapsed() < options.piece && !disturbance.is_over(&report) {
            disturbance.step(servers, &load, &mut random, &mut report).await;
        }
        load.end(piece, servers, &mut report).await;
        progress(&report);
    }
    let with_leases = options.with_leases && report.violations.is_empty();
    load.stop(servers, &mut report, with_leases).await;
    report
}

/// A plan, and how far it has come.
struct Disturbance<'a> {
    plan: &'a Plan,
    deck: Deck,
    steps: u64,
}

impl<'a> Disturbance<'a> {
    fn new(plan: &'a Plan) -> Self {
        let kinds = match plan {
            Plan::Faults { kinds, .. } => kinds.as_slice(),
            _ => &[],
        };
        Self { plan, deck: Deck::new(kinds), steps: 0 }
    }

    fn is_over(&self, report: &Report) -> bool {
        match self.plan {
            Plan::Faults { operations, .. } => {
                self.steps > 0 && self.deck.is_through() && report.operations >= *operations
            }
            Plan::Kills { count, .. } => self.steps >= *count,
            Plan::SlowDisk { rounds, .. } => self.steps >= *rounds,
        }
    }

    async fn step(
        &mut self,
        servers: &mut Servers,
        load: &Load,
        random: &mut StdRng,
        report: &mut Report,
    ) {
        self.steps += 1;
        match self.plan {
            Plan::Faults { ms_min, ms_max, .. } => {
                let fault = self.deck.draw(random);
                let length = Length { ms_min: *ms_min, ms_max: *ms_max };
                let large = &load.shared.large;
                faults::inflict(fault, servers, random, length, large).await;
                report.happened(fault.name());
                // So that there is something to disturb.
                tokio::time::sleep(Duration::from_millis(*ms_min / 2)).await;
            }
            Plan::Kills { with_another, .. } => {
                kills::kill(servers, &load.shared, random, *with_another, report).await;
            }
            Plan::SlowDisk { under, .. } => {
                slow::measure(servers, &load.shared, *under, report).await;
            }
        }
    }
}
