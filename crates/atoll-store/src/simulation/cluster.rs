//! Several members in virtual time, each on a disk of its own, over a network that loses, doubles,
//! delays and reorders, is cut in one direction or both; members crash at any write, hang, run out
//! of disk, come and go. What is committed anywhere is compared with everything that is committed
//! elsewhere, with a model, and with what clients were told.
//!
//! A run is decided by its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use super::{SimulatedClock, is_replaced};
use crate::cluster::{Member, MemberStart, Start};
use crate::core::{Core, WalJob};
use crate::disk::{Crash, Disk, SimulatedDisk};
use crate::embedded::StoreConfig;
use crate::retention::{KeyspaceLimits, Retention};
use crate::shared::{LEVEL, LEVEL_MIN};
use crate::sync::lock;

mod clients;
mod faults;
mod ledger;
mod network;
mod node;
mod refusals;
#[cfg(test)]
mod survivors;
#[cfg(test)]
mod tests;

use clients::Clients;
use ledger::Ledger;
use network::{Network, Parcel};
use node::Node;

/// Something is wrong with the store, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Syncs of the log do nothing.
    SkipsSync,
    /// A read is served with what is committed here, without asking anybody.
    ReadsAlone,
    /// Entries are applied when they are appended.
    AppliesEarly,
    /// A member that lost its disk comes back as the same member, and nobody compares.
    ReusesId,
    /// A vote is not written down.
    ForgetsVote,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterPlan {
    pub seed: u64,
    pub members: usize,
    /// How long things go wrong; then all is healed and must recover.
    pub duration: Duration,
    pub bug: Option<Bug>,
}

impl ClusterPlan {
    /// One, three or five members and all that goes wrong in a while.
    pub fn of(seed: u64) -> Self {
        let members = [5, 3, 3, 5, 3, 1][usize::try_from(seed % 6).unwrap_or(0)];
        Self { seed, members, duration: Duration::from_secs(25), bug: None }
    }

    /// So short that a thousand of them run with every test.
    pub fn brief(seed: u64) -> Self {
        let members = match seed % 20 {
            0 | 10 => 5,
            5 | 15 => 1,
            _ => 3,
        };
        Self { seed, members, duration: Duration::from_secs(7), bug: None }
    }
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClusterReport {
    pub events: u64,
    pub entries: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub reads: u64,
    pub crashes: u64,
    pub elections: u64,
    /// Times that a member stopped waiting for a leader that seemed to have ended.
    pub given_up: u64,
    pub snapshots: u64,
    pub changes: u64,
    pub leases_ended: u64,
    /// Clocks that jumped.
    pub jumps: u64,
    /// Whether the format level rose in the run, with the last member that was upgraded.
    pub upgrades: u64,
    /// Times that a state file was replaced by a copy of itself.
    pub rewritten: u64,
    /// Readers that came while a round waited for more of them.
    pub gathered: u64,
}

/// Runs one plan; the text says what was violated.
pub fn run(plan: ClusterPlan) -> Result<ClusterReport, String> {
    let mut world = World::start(plan)?;
    let outcome = world.until(plan.duration).and_then(|()| {
        world.heal();
        world.recover()
    });
    // What the ledger has noticed comes first: what others notice may follow from it.
    let noticed = lock(&world.ledger).violation.take();
    noticed.map_or(outcome, Err)?;
    world.finish()
}

/// Longest time for everything to be in order again once nothing is wrong any more.
const RECOVERY_MAX: Duration = Duration::from_secs(40);
/// More than any run has; a run that does not end is a violation too.
const EVENTS_MAX: u64 = 3_000_000;

enum What {
    /// Somebody's timer may be due.
    Timer(u64),
    Parcel(Parcel),
    Written(u64, u64, Box<WalJob>),
    Flushed(u64, u64),
    Restart(u64),
    /// The first finds that the address of the second refuses connections.
    Gone(u64, u64),
    /// Of a member, if it is still in this life.
    Crash(u64, u64),
    Client,
    Fault,
    Heal(faults::Healing),
}

struct World {
    plan: ClusterPlan,
    random: StdRng,
    /// Of its own, so that what it decides changes nothing else.
    shrinking: StdRng,
    /// The same, of whose addresses refuse connections, and of voters that end.
    presuming: StdRng,
    now: Duration,
    events: BTreeMap<(Duration, u64), What>,
    next_event: u64,
    nodes: BTreeMap<u64, Node>,
    network: Network,
    ledger: Arc<Mutex<Ledger>>,
    clients: Clients,
    cluster_id: String,
    next_member: u64,
    healed: bool,
    /// The cluster is not whole yet.
    forming: bool,
    report: ClusterReport,
}

fn config(seed: u64) -> StoreConfig {
    let limits = |period_ms| KeyspaceLimits {
        quota_bytes: 64 << 20,
        few_revisions: 0,
        retention: match period_ms {
            0 => Retention::WhileRoom,
            period_ms => Retention::Period(Duration::from_millis(period_ms)),
        },
    };
    StoreConfig {
        segment_bytes: if seed.is_multiple_of(5) { 256 << 10 } else { 48 << 10 },
        cache_bytes: 1 << 20,
        // Some keep little history by themselves.
        cluster: limits(if seed % 4 == 1 { 3000 } else { 0 }),
        applications: limits(if seed % 4 >= 2 { 1500 } else { 0 }),
        // So few that members which were away for a while need the whole state.
        log_entries_max: if seed.is_multiple_of(2) { 20 } else { 2000 },
        flush_every: Duration::from_secs(3),
        flush_few_every: Duration::from_secs(3),
        flush_operations: 60,
        // Copied in several steps.
        shrink_step_bytes: 2 << 10,
        ..StoreConfig::default()
    }
}

impl World {
    fn start(plan: ClusterPlan) -> Result<Self, String> {
        let mut world = Self {
            plan,
            random: StdRng::seed_from_u64(plan.seed),
            shrinking: StdRng::seed_from_u64(plan.seed ^ 0x5c12),
            presuming: StdRng::seed_from_u64(plan.seed ^ 0x60fe),
            now: Duration::ZERO,
            events: BTreeMap::new(),
            next_event: 0,
            nodes: BTreeMap::new(),
            network: Network::default(),
            ledger: Arc::default(),
            clients: Clients::default(),
            cluster_id: String::new(),
            next_member: 1,
            healed: true,
            forming: true,
            report: ClusterReport::default(),
        };
        lock(&world.ledger).bug = plan.bug;
        world.form()?;
        (world.healed, world.forming) = (false, false);
        world.schedule(Duration::from_millis(10), What::Client);
        world.schedule(Duration::from_millis(500), What::Fault);
        Ok(world)
    }

    /// A cluster of one becomes one of as many as the plan says, by the ordinary way.
    fn form(&mut self) -> Result<(), String> {
        let mut random = StdRng::seed_from_u64(self.plan.seed);
        let first = self.machine(member_start("m0", Start::New));
        let (id, cluster_id) = first.enter(&mut random)?;
        self.cluster_id = cluster_id;
        lock(&self.ledger).members.insert(id);
        self.nodes.insert(id, first);
        self.open(id)?;
        for _ in 1..self.plan.members {
            self.add_member()?;
            self.until_in_order(Duration::from_secs(20), "the cluster does not form")?;
        }
        Ok(())
    }

    /// In some runs all begin with the release before, and each may be started again with this one.
    fn upgrades(&self) -> bool {
        self.plan.seed % 4 == 1
    }

    /// A machine with the release that this run begins with.
    fn machine(&self, start: MemberStart) -> Node {
        let mut node = Node::new(self.plan, start);
        if self.upgrades() {
            node.level_max = LEVEL_MIN;
        }
        node
    }

    fn schedule(&mut self, after: Duration, what: What) {
        self.events.insert((self.now + after, self.next_event), what);
        self.next_event += 1;
    }

    fn until(&mut self, end: Duration) -> Result<(), String> {
        let end = self.now.max(Duration::ZERO) + end;
        while let Some(((at, _), _)) = self.events.first_key_value() {
            if *at > end {
                break;
            }
            self.step()?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let Some(((at, _), what)) = self.events.pop_first() else { return Ok(()) };
        self.now = self.now.max(at);
        self.report.events += 1;
        if self.report.events > EVENTS_MAX {
            return Err("the run does not end".to_owned());
        }
        match what {
            What::Timer(id) => self.on_timer(id)?,
            What::Parcel(parcel) => self.deliver(parcel)?,
            What::Written(id, life, job) => self.on_written(id, life, *job)?,
            What::Flushed(id, life) => self.on_flushed(id, life)?,
            What::Restart(id) => self.open(id)?,
            What::Gone(observer, peer) => self.on_gone(observer, peer)?,
            What::Crash(id, life) => self.on_crash(id, life)?,
            What::Client => self.on_client()?,
            What::Fault => self.on_fault()?,
            What::Heal(healing) => self.on_heal(healing)?,
        }
        self.clients_look()?;
        let violation = lock(&self.ledger).violation.take();
        violation.map_or(Ok(()), Err)
    }

    /// Runs until every member that is there has applied everything, with a leader.
    fn until_in_order(&mut self, longest: Duration, otherwise: &str) -> Result<(), String> {
        let deadline = self.now + longest;
        while self.now < deadline {
            let next = self.now + Duration::from_millis(50);
            while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= next) {
                self.step()?;
            }
            self.now = self.now.max(next);
            if self.is_in_order() {
                return Ok(());
            }
        }
        Err(format!("{otherwise}: {}", self.describe()))
    }

    fn is_in_order(&self) -> bool {
        let mut places = BTreeSet::new();
        for node in self.nodes.values().filter(|node| !node.gone) {
            let Some(core) = &node.core else { return false };
            let membership = core.shared.cluster.membership();
            let learners = membership.members.iter().any(|member| member.is_learner);
            if membership.leader.is_none() || learners || node.is_behind() {
                return false;
            }
            places.insert((node.applied(), membership.leader, membership.members.len()));
        }
        let live = self.nodes.values().filter(|node| !node.gone).count();
        places.len() == 1 && places.iter().all(|(_, _, members)| *members == live)
    }

    fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|(id, node)| format!("{id:x}: {}", node.describe()));
        format!("at {:?}; {}", self.now, nodes.collect::<Vec<_>>().join("; "))
    }

    /// Nothing goes wrong any more.
    fn heal(&mut self) {
        self.healed = true;
        self.network.heal();
        for (id, node) in &mut self.nodes {
            node.heal();
            if node.level_max < LEVEL {
                // It is started again with the release of the others.
                node.stop(Crash::Kill, 0);
            }
            if node.core.is_none() && !node.gone {
                self.events.insert((self.now, self.next_event), What::Restart(*id));
                self.next_event += 1;
            }
        }
    }

    fn recover(&mut self) -> Result<(), String> {
        self.until(Duration::from_secs(2))?;
        self.clients.stopped = true;
        self.until(Duration::from_secs(4))?;
        self.drop_strangers();
        self.until_in_order(RECOVERY_MAX, "the cluster does not recover")
    }

    fn finish(mut self) -> Result<ClusterReport, String> {
        self.clients.finish(&mut self.report)?;
        self.judge_watches()?;
        let ledger = lock(&self.ledger);
        for (id, node) in self.nodes.iter().filter(|(_, node)| !node.gone) {
            let Some(core) = &node.core else { continue };
            ledger.compare_whole(core).map_err(|error| format!("member {id:x}: {error}"))?;
        }
        self.report.entries = ledger.last_index();
        self.report.elections = ledger.elections();
        self.report.given_up = ledger.given_up;
        self.report.leases_ended = ledger.leases_ended;
        self.report.upgrades = u64::from(self.upgrades());
        if ledger.level != LEVEL {
            return Err(format!("the format level is {} in the end, not {LEVEL}", ledger.level));
        }
        Ok(self.report)
    }

    fn open(&mut self, id: u64) -> Result<(), String> {
        let upgrades = self.upgrades();
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.core.is_some() || node.gone {
            return Ok(());
        }
        if upgrades && !self.forming && (self.healed || self.random.random_bool(0.5)) {
            node.level_max = LEVEL;
        }
        node.set_time(self.now);
        let opened = node.open(id, &self.network, &self.ledger)?;
        if !opened {
            // It crashed again while it was opened.
            self.report.crashes += 1;
            let after = Duration::from_millis(self.random.random_range(50..1000));
            self.schedule(after, What::Restart(id));
            return Ok(());
        }
        self.settle(id)
    }

    fn on_timer(&mut self, id: u64) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if let Some(until) = node.paused_until.filter(|until| *until > self.now) {
            node.timer_at = None;
            let wait = until - self.now;
            self.schedule(wait, What::Timer(id));
            return Ok(());
        }
        node.timer_at = None;
        self.settle(id)
    }

    /// Lets a member do what it wants to do now, and takes what it wants done.
    fn settle(&mut self, id: u64) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        node.set_time(self.now);
        let life = node.life;
        let Some(core) = &mut node.core else { return Ok(()) };
        if self.shrinking.random_bool(0.002) {
            // Nobody waits for it.
            core.on_defragment(oneshot::channel().0);
        }
        core.on_timer();
        if let Some(writer) = &mut node.writer
            && self.shrinking.random_bool(0.1)
            && let Some(copied) = writer.step()
        {
            core.on_copied(copied);
        }
        let force = self.random.random_bool(0.01);
        let slow = node.slow;
        if node.flush.is_none()
            && let Some(job) = core.start_flush(force)
        {
            node.flush = Some(job);
            let after = Duration::from_millis(self.random.random_range(1..60));
            self.events.insert((self.now + after, self.next_event), What::Flushed(id, life));
            self.next_event += 1;
        }
        if let Some(job) = core.take_fill_job() {
            job.run();
        }
        if let Some(job) = core.take_wal_job().or_else(|| core.take_seal_job()) {
            let after = node::disk_delay(slow, &mut self.random);
            let what = What::Written(id, life, Box::new(job));
            self.events.insert((self.now + after, self.next_event), what);
            self.next_event += 1;
        }
        let wake = core.next_wake().map(|at| at.saturating_sub(node.clock.jumped()));
        if let Some(at) = wake.map(|at| at.max(self.now + Duration::from_millis(1)))
            && node.timer_at.is_none_or(|known| at < known)
        {
            node.timer_at = Some(at);
            self.events.insert((at, self.next_event), What::Timer(id));
            self.next_event += 1;
        }
        self.send_parcels(id);
        self.crash_voters();
        self.look_at(id)
    }

    /// A member that crashed or failed, and what it says of itself.
    fn look_at(&mut self, id: u64) -> Result<(), String> {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(core) = &node.core else { return Ok(()) };
        lock(&self.ledger).compare(id, core, now)?;
        if node.disk.crashed() {
            let crash = node_crash(&mut self.random);
            return self.crash(id, crash);
        }
        let Some(failure) = core.shared.failure() else { return Ok(()) };
        if failure.contains("removed from the cluster") {
            node.gone = true;
            node.core = None;
            return Ok(());
        }
        if core.shared.unfit().is_some() || failure.contains("differ") {
            return Err(format!("member {id:x} without fault: {failure}"));
        }
        // A process that cannot write is started again.
        self.crash(id, Crash::Kill)
    }

    fn crash(&mut self, id: u64, crash: Crash) -> Result<(), String> {
        self.report.crashes += 1;
        let seed = self.random.random();
        let after = Duration::from_millis(self.random.random_range(20..4000));
        let again = self.random.random_bool(0.2);
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        node.stop(crash, seed);
        if again && !self.healed {
            // What a crash leaves must stand a second one soon after.
            let soon = node.disk.operations() + seed % 60;
            node.disk.crash_at(Some(soon));
        }
        self.schedule(after, What::Restart(id));
        if crash == Crash::Kill || self.presuming.random_bool(0.5) {
            self.tell_gone(id);
        }
        Ok(())
    }

    fn on_written(&mut self, id: u64, life: u64, job: WalJob) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.life != life || node.core.is_none() {
            return Ok(());
        }
        if let Some(until) = node.paused_until.filter(|until| *until > self.now) {
            let what = What::Written(id, life, Box::new(job));
            self.schedule(until - self.now, what);
            return Ok(());
        }
        node.set_time(self.now);
        let done = job.run(&*node.clock);
        if node.disk.crashed() {
            let crash = node_crash(&mut self.random);
            return self.crash(id, crash);
        }
        if let Some(core) = &mut node.core {
            core.finish_wal(done);
        }
        self.settle(id)
    }

    fn on_flushed(&mut self, id: u64, life: u64) -> Result<(), String> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.life != life {
            return Ok(());
        }
        node.set_time(self.now);
        let (Some(core), Some(writer)) = (&mut node.core, &mut node.writer) else { return Ok(()) };
        let Some(job) = node.flush.take() else { return Ok(()) };
        let result = writer.flush(&job);
        self.report.rewritten += u64::from(is_replaced(&result));
        if node.disk.crashed() {
            let crash = node_crash(&mut self.random);
            return self.crash(id, crash);
        }
        core.finish_flush(result);
        self.settle(id)
    }

    fn live(&mut self) -> Option<u64> {
        let live: Vec<_> =
            self.nodes.iter().filter(|(_, node)| node.core.is_some()).map(|(id, _)| *id).collect();
        live.choose(&mut self.random).copied()
    }
}

fn node_crash(random: &mut StdRng) -> Crash {
    match random.random_range(0..3) {
        0 => Crash::Kill,
        1 => Crash::PowerLossAll,
        _ => Crash::PowerLoss,
    }
}

fn member_start(name: &str, start: Start) -> MemberStart {
    MemberStart {
        name: name.to_owned(),
        peer_address: format!("{name}:2380"),
        client_urls: Vec::new(),
        start,
    }
}
