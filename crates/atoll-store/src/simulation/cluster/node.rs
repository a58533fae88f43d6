//! One simulated machine: its disk, its clock and the member that runs on it, if it does.

use std::sync::Arc;

use super::ledger::{Ledger, Recorder};
use super::network::{Network, SimulatedNet};
use super::*;
use crate::backend::{FlushJob, StateWriter};
use crate::clock::Clock;
use crate::core::{Arrivals, CoreOpenError};
use crate::disk::Lie;
use crate::folder;
use crate::shared::LEVEL;
use crate::wal::WalError;

pub(super) struct Node {
    plan: ClusterPlan,
    pub(super) start: MemberStart,
    pub(super) disk: SimulatedDisk,
    pub(super) clock: Arc<SimulatedClock>,
    pub(super) core: Option<Core>,
    pub(super) arrivals: Option<Arrivals>,
    pub(super) flush: Option<FlushJob>,
    pub(super) writer: Option<StateWriter>,
    /// Counts starts: what was under way in an earlier one is gone.
    pub(super) life: u64,
    pub(super) timer_at: Option<Duration>,
    pub(super) paused_until: Option<Duration>,
    /// A write takes so much longer.
    pub(super) slow: Duration,
    /// It was removed from the cluster.
    pub(super) gone: bool,
    /// The format level of its program, which changes when it is started again.
    pub(super) level_max: u32,
}

impl Node {
    pub(super) fn new(plan: ClusterPlan, start: MemberStart) -> Self {
        let disk = SimulatedDisk::new();
        disk.plant((plan.bug == Some(Bug::SkipsSync)).then_some(Lie::SkipsSync("wal/")));
        Self {
            plan,
            start,
            disk,
            clock: Arc::default(),
            core: None,
            arrivals: None,
            flush: None,
            writer: None,
            life: 0,
            timer_at: None,
            paused_until: None,
            slow: Duration::ZERO,
            gone: false,
            level_max: LEVEL,
        }
    }

    /// Makes the folder, to learn who it is.
    pub(super) fn enter(&self, random: &mut StdRng) -> Result<(u64, String), String> {
        let member = folder::enter(&self.disk, random, Some(&self.start))
            .map_err(|error| super::super::chain(&error))?;
        Ok((member.member_id, member.cluster_id))
    }

    /// `false` when it crashed meanwhile.
    pub(super) fn open(
        &mut self,
        id: u64,
        network: &Network,
        ledger: &Arc<Mutex<Ledger>>,
    ) -> Result<bool, String> {
        self.life += 1;
        self.timer_at = None;
        self.paused_until = None;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let mut random = StdRng::seed_from_u64(self.plan.seed ^ self.life ^ id);
        let config = StoreConfig { level_max: self.level_max, ..config(self.plan.seed) };
        let known = config.clone();
        let start = Some(&self.start);
        lock(ledger).levels.insert(id, self.level_max);
        let opened = Core::prepare(disk.clone(), clock.clone(), config, &mut random, start)
            .and_then(|opened| {
                let recorder = ledger.clone();
                let time = self.clock.clone();
                let mut core = opened
                    .core
                    .with_consensus(|inner| Box::new(Recorder::new(id, inner, recorder, time)));
                core.set_net(Box::new(SimulatedNet::new(id, network)));
                core.replay()?;
                Ok(core)
            });
        match opened {
            Ok(core) => {
                self.writer = Some(core.state_writer());
                self.core = Some(core);
                self.arrivals = Some(Arrivals::new(disk, clock, &known));
                Ok(true)
            }
            Err(_) if self.disk.crashed() => {
                self.disk.restart(Crash::PowerLoss, self.plan.seed ^ self.life);
                Ok(false)
            }
            // With no room at all a start is refused.
            Err(error) if !is_damage(&error) && (self.is_full() || met_full_disk(&error)) => {
                self.limit_space(None);
                Ok(false)
            }
            Err(error) => {
                Err(format!("member {id:x} does not open: {}", super::super::chain(&error)))
            }
        }
    }

    fn is_full(&self) -> bool {
        lock(&self.clock.freed_by_waiting).is_some()
    }

    pub(super) fn limit_space(&mut self, spare: Option<usize>) {
        self.disk.limit_space(spare);
        *lock(&self.clock.freed_by_waiting) = spare.map(|_| self.disk.clone());
    }

    /// The process ends, or the machine.
    pub(super) fn stop(&mut self, crash: Crash, seed: u64) {
        self.core = None;
        self.arrivals = None;
        self.flush = None;
        self.writer = None;
        self.life += 1;
        self.disk.restart(crash, seed);
    }

    pub(super) fn heal(&mut self) {
        self.disk.crash_at(None);
        self.limit_space(None);
        self.slow = Duration::ZERO;
        self.paused_until = None;
    }

    pub(super) fn set_time(&mut self, now: Duration) {
        let mut time = lock(&self.clock.now);
        *time = (*time).max(now);
    }

    pub(super) fn applied(&self) -> u64 {
        self.core
            .as_ref()
            .map_or(0, |core| core.shared.applied_index.load(std::sync::atomic::Ordering::Relaxed))
    }

    pub(super) fn is_behind(&self) -> bool {
        self.core.as_ref().is_none_or(|core| {
            core.shared.raft_index.load(std::sync::atomic::Ordering::Relaxed) != self.applied()
        })
    }

    pub(super) fn describe(&self) -> String {
        let Some(core) = &self.core else { return format!("down, gone {}", self.gone) };
        let membership = core.shared.cluster.membership();
        format!(
            "applied {} of {}, leader {:x?}, term {}, members {:x?}, failure {:?}, paused {:?}",
            self.applied(),
            core.shared.raft_index.load(std::sync::atomic::Ordering::Relaxed),
            membership.leader,
            membership.term,
            membership
                .members
                .iter()
                .map(|member| (member.id, member.is_learner))
                .collect::<Vec<_>>(),
            core.shared.failure(),
            self.paused_until,
        )
    }
}

fn is_damage(error: &CoreOpenError) -> bool {
    super::super::is_damage(error)
}

pub(super) fn disk_delay(slow: Duration, random: &mut StdRng) -> Duration {
    let usual = Duration::from_micros(random.random_range(100..5000));
    usual + slow.mul_f64(random.random_range(0.5..1.5))
}

/// Room that waiting had freed may be gone again.
fn met_full_disk(error: &CoreOpenError) -> bool {
    match error {
        CoreOpenError::Epoch | CoreOpenError::Write(WalError::Full { .. }) => true,
        CoreOpenError::Replay { detail } => detail.starts_with("the disk is full"),
        _ => false,
    }
}
