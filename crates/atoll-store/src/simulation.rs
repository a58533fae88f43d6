//! The store on a simulated disk, in virtual time, against a model that is too simple to be
//! wrong: it is crashed, its disk fails and fills up, and after every restart all that was
//! acknowledged must be there, in the same order, and nothing else but what was under way.
//!
//! A run is decided by its seed and its fault, so a failure repeats.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;

use crate::backend::{BackendError, FlushJob, Flushed, Rewriting, StateWriter};
use crate::clock::Clock;
use crate::core::{Answer, Core, CoreOpenError, Proposal, Reply};
use crate::disk::{Crash, Disk, Lie, SimulatedDisk};
use crate::embedded::StoreConfig;
use crate::kv::{Error, KeyRange, Op, PutRequest, RangeRequest, Txn};
use crate::mvcc::{Command, Response};
use crate::retention::{KeyspaceLimits, Retention};
use crate::sync::{lock, read};

mod around;
pub mod cluster;
mod model;
#[cfg(test)]
mod planted;
mod workload;

use model::{Change, Model};
use workload::draw_batch;

/// Virtual time.
#[derive(Debug, Default)]
pub struct SimulatedClock {
    now: Mutex<Duration>,
    /// How far it has jumped ahead of the others.
    jumped: Mutex<Duration>,
    /// A full disk gets room when somebody waits for it.
    freed_by_waiting: Mutex<Option<SimulatedDisk>>,
}

impl SimulatedClock {
    fn advance(&self, by: Duration) {
        *lock(&self.now) += by;
    }

    fn jump(&self, by: Duration) {
        *lock(&self.jumped) += by;
    }

    fn jumped(&self) -> Duration {
        *lock(&self.jumped)
    }

    fn without_jumps(&self) -> Duration {
        *lock(&self.now)
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Duration {
        self.without_jumps() + self.jumped()
    }

    fn pause(&self, duration: Duration) {
        self.advance(duration);
        if let Some(disk) = lock(&self.freed_by_waiting).take() {
            disk.limit_space(None);
        }
    }
}

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The machine stops at this disk operation.
    CrashAt(u64, Crash),
    /// This disk operation fails; then the process is started again, and then power is lost.
    FailAt(u64),
    /// At this step, after some quiet, a bit of the log is changed behind the store's back.
    DamageAt(usize),
    /// At this step the disk has only so many blocks left, and later room again.
    FullAt {
        step: usize,
        spare_blocks: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub seed: u64,
    pub steps: usize,
    pub fault: Fault,
}

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    pub disk_operations: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub restarts: u64,
    /// Times that the state file was replaced by a copy of itself.
    pub rewritten: u64,
}

/// Something is wrong with the store, on purpose.
#[derive(Clone, Copy, Default)]
struct Planted {
    lie: Option<Lie>,
    core: Option<fn(Core) -> Core>,
}

/// Runs one plan; the text says what was violated.
pub fn run(plan: Plan) -> Result<Report, String> {
    run_planted(plan, Planted::default())
}

fn run_planted(plan: Plan, planted: Planted) -> Result<Report, String> {
    let mut run = Run::start(plan, planted)?;
    run.disk.crash_at(match plan.fault {
        Fault::CrashAt(operation, _) => Some(operation),
        _ => None,
    });
    run.disk.fail_at(match plan.fault {
        Fault::FailAt(operation) => Some(operation),
        _ => None,
    });
    for step in 0..plan.steps {
        run.set_space(step);
        if plan.fault == Fault::DamageAt(step) {
            run.damage()?;
        }
        run.step()?;
    }
    run.restart(Crash::PowerLossAll)?;
    run.report.disk_operations = run.disk.operations();
    Ok(run.report)
}

struct Run {
    plan: Plan,
    planted: Planted,
    random: StdRng,
    /// Of its own, so that what it decides changes nothing else.
    shrinking: StdRng,
    disk: SimulatedDisk,
    clock: Arc<SimulatedClock>,
    core: Option<Core>,
    writer: Option<StateWriter>,
    flush: Option<FlushJob>,
    model: Model,
    /// Revisions that a watch had seen before the last restart.
    watched: i64,
    report: Report,
}

const LIMITS: KeyspaceLimits =
    KeyspaceLimits { quota_bytes: 64 << 20, retention: Retention::WhileRoom, few_revisions: 0 };

fn config(seed: u64) -> StoreConfig {
    StoreConfig {
        // Small, so that segments end and old ones go within a run, also within a short one.
        segment_bytes: if seed.is_multiple_of(7) { 256 << 10 } else { 48 << 10 },
        cache_bytes: 1 << 20,
        cluster: LIMITS,
        applications: LIMITS,
        // Runs are short, and the state file should be written in them.
        flush_every: Duration::from_secs(5),
        flush_few_every: Duration::from_secs(10),
        // Copied in several steps.
        shrink_step_bytes: 2 << 10,
        ..StoreConfig::default()
    }
}

impl Run {
    fn start(plan: Plan, planted: Planted) -> Result<Self, String> {
        let mut run = Self {
            plan,
            planted,
            random: StdRng::seed_from_u64(plan.seed),
            shrinking: StdRng::seed_from_u64(plan.seed ^ 0x5c12),
            disk: SimulatedDisk::new(),
            clock: Arc::new(SimulatedClock::default()),
            core: None,
            writer: None,
            flush: None,
            model: Model::default(),
            watched: 1,
            report: Report::default(),
        };
        run.disk.plant(planted.lie);
        run.disk.crash_at(match plan.fault {
            Fault::CrashAt(operation, _) => Some(operation),
            _ => None,
        });
        run.open()?;
        Ok(run)
    }

    /// Opens, restarting the machine as often as it crashes meanwhile.
    fn open(&mut self) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..12 {
            let mut random = StdRng::seed_from_u64(self.plan.seed);
            let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
            match Core::open(disk, self.clock.clone(), config(self.plan.seed), &mut random, None) {
                Ok(opened) => {
                    let change = self.planted.core.unwrap_or(|core| core);
                    let core = change(opened.core);
                    self.writer = Some(core.state_writer());
                    self.core = Some(core);
                    return Ok(());
                }
                Err(_) if self.disk.crashed() => self.restart_disk(),
                // With no room at all a start is refused; with some it must succeed.
                Err(error) if !is_damage(&error) && self.is_full_plan() => {
                    self.disk.limit_space(None);
                }
                // One failed operation; the next start must succeed.
                Err(error) if !is_damage(&error) => {
                    last = chain(&error);
                    self.disk.fail_at(None);
                }
                Err(error) => return Err(format!("the folder does not open: {}", chain(&error))),
            }
        }
        Err(format!("the folder does not open after twelve starts: {last}"))
    }

    fn is_full_plan(&self) -> bool {
        matches!(self.plan.fault, Fault::FullAt { .. })
    }

    fn restart_disk(&mut self) {
        let crash = match self.plan.fault {
            Fault::CrashAt(_, crash) => crash,
            _ => Crash::PowerLoss,
        };
        let seed = self.random.random();
        self.disk.restart(crash, seed);
        self.report.restarts += 1;
        // What a crash leaves must stand a second one soon after.
        if matches!(self.plan.fault, Fault::CrashAt(..)) && self.random.random_bool(0.6) {
            let soon = self.disk.operations() + self.random.random_range(1..40);
            self.disk.crash_at(Some(soon));
        }
    }

    fn set_space(&mut self, step: usize) {
        let Fault::FullAt { step: full_at, spare_blocks } = self.plan.fault else { return };
        if step == full_at {
            self.disk.limit_space(Some(spare_blocks));
            *lock(&self.clock.freed_by_waiting) = Some(self.disk.clone());
        }
        if step == full_at + self.plan.steps / 3 {
            self.disk.limit_space(None);
            lock(&self.clock.freed_by_waiting).take();
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let batch = draw_batch(&mut self.random, &self.model);
        let jump = Duration::from_millis(self.random.random_range(1..400));
        self.clock.advance(jump);
        let answers = self.submit(&batch);
        self.check_answers(&batch, answers)?;
        self.background();
        if self.random.random_bool(0.2) {
            self.check_state()?;
        }
        let failed = self.core.as_ref().is_none_or(|core| core.shared.check().is_err());
        if self.disk.crashed() {
            self.restart_machine()?;
        } else if failed {
            // A process that cannot write is started again; what the kernel holds is there.
            self.restart(Crash::Kill)?;
            // Or later, when more has been built upon what is there now.
            if self.random.random_bool(0.5) {
                self.restart(Crash::PowerLoss)?;
            }
        } else if self.random.random_bool(0.02) {
            self.restart(Crash::Kill)?;
        } else if self.random.random_bool(0.02) {
            self.restart(Crash::PowerLoss)?;
        }
        Ok(())
    }

    fn submit(&mut self, batch: &[(usize, Command)]) -> Vec<Option<Answer>> {
        let mut proposals = Vec::new();
        let mut receivers = Vec::new();
        for (keyspace, command) in batch {
            let (sender, receiver) = oneshot::channel();
            proposals.push(Proposal {
                keyspace: *keyspace,
                command: command.clone(),
                added_bytes: workload::added_bytes(command),
                reply: Some(Reply { sender, permit: None }),
            });
            receivers.push(receiver);
        }
        if let Some(core) = &mut self.core {
            core.submit(proposals);
        }
        receivers.into_iter().map(|mut receiver| receiver.try_recv().ok()).collect()
    }

    fn check_answers(
        &mut self,
        batch: &[(usize, Command)],
        answers: Vec<Option<Answer>>,
    ) -> Result<(), String> {
        for ((keyspace, command), answer) in batch.iter().zip(answers) {
            match answer {
                None | Some(Err(Error::Timeout { maybe_applied: true })) => {
                    self.report.unknown += 1;
                    self.model.unknown.push((*keyspace, command.clone()));
                }
                Some(Err(Error::NoSpace { .. } | Error::Unavailable { .. })) => {
                    self.report.refused += 1;
                }
                Some(answer) => {
                    if !self.model.unknown.is_empty() {
                        return Err("an answer came after one that is unknown".to_owned());
                    }
                    self.report.acknowledged += 1;
                    let expected = self.model.apply(*keyspace, command);
                    compare("the answer", command, &answer, &expected)?;
                }
            }
        }
        Ok(())
    }

    /// What the threads do beside the requests.
    fn background(&mut self) {
        let flush = self.random.random_bool(0.3);
        let (Some(core), Some(writer)) = (&mut self.core, &mut self.writer) else { return };
        if self.shrinking.random_bool(0.05) {
            // Nobody waits for it.
            core.on_defragment(oneshot::channel().0);
        }
        core.on_timer();
        if let Some(job) = core.take_fill_job() {
            job.run();
        }
        if self.shrinking.random_bool(0.5)
            && let Some(copied) = writer.step()
        {
            core.on_copied(copied);
        }
        // A flush takes its time: requests are served between its start and its end.
        match self.flush.take() {
            Some(job) if self.random.random_bool(0.5) => {
                let result = writer.flush(&job);
                self.report.rewritten += u64::from(is_replaced(&result));
                core.finish_flush(result);
            }
            Some(job) => self.flush = Some(job),
            None => self.flush = core.start_flush(flush),
        }
    }

    /// Every key, its whole history, and what a watch sees, against the model.
    fn check_state(&mut self) -> Result<(), String> {
        let Some(core) = &self.core else { return Ok(()) };
        for (code, keyspace) in core.shared.keyspaces.iter().enumerate() {
            let state = read(&keyspace.state);
            let expected = &self.model.keyspaces[code];
            let found = state
                .plan(&RangeRequest::new(everything()), state.revision)
                .finish()
                .map_err(|error| error.to_string())?;
            compare("the revision", &code, &found.revision, &expected.revision)?;
            let kvs: Vec<_> = expected.live.values().cloned().collect();
            compare("the present", &code, &found.kvs, &kvs)?;
            compare("the size", &code, &state.live_bytes, &state.count_live_bytes())?;
            let leases: Vec<_> = state.leases.keys().copied().collect();
            let expected_leases: Vec<_> = expected.leases.keys().copied().collect();
            compare("the leases", &code, &leases, &expected_leases)?;
        }
        self.check_watch()
    }

    /// A watch that resumes behind what it has seen finds every later change, once.
    fn check_watch(&mut self) -> Result<(), String> {
        let Some(core) = &self.core else { return Ok(()) };
        let state = read(&core.shared.keyspaces[0].state);
        let expected = &self.model.keyspaces[0];
        let mut from = self.watched.max(state.compacted) + 1;
        let mut seen = Vec::new();
        while from <= state.revision {
            let found = state
                .events(&everything(), (from, state.revision), false, 4096)
                .map_err(|error| error.to_string())?;
            for event in found.events {
                seen.push(Change::of(&event));
            }
            if found.through < from {
                return Err(format!("a watch from {from} does not move"));
            }
            from = found.through + 1;
        }
        let start = self.watched.max(state.compacted) + 1;
        let wanted: Vec<_> =
            expected.history.range(start..).flat_map(|(_, changes)| changes.clone()).collect();
        compare("the watch", &start, &seen, &wanted)?;
        if self.random.random_bool(0.3) {
            self.watched = state.revision;
        }
        Ok(())
    }

    /// What was written before some quiet is never taken for torn, whichever bit is changed.
    fn damage(&mut self) -> Result<(), String> {
        self.clock.advance(Duration::from_secs(1));
        if let Some(core) = &mut self.core {
            core.on_timer();
        }
        self.stop();
        self.disk.restart(Crash::Kill, 0);
        let names = self.disk.list("wal").map_err(|error| error.to_string())?;
        let name = format!("wal/{}", names[self.random.random_range(0..names.len())]);
        let content = self.disk.read(&name).map_err(|error| error.to_string())?;
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        // The last segment matters most, and in it the end.
        let offset = match self.random.random_bool(0.5) {
            true => self.random.random_range(used.saturating_sub(16 << 10)..used),
            false => self.random.random_range(0..used),
        };
        let mask = 1 << self.random.random_range(0..8);
        self.disk.damage(&name, offset, mask);
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let seed = self.plan.seed;
        let mut random = StdRng::seed_from_u64(seed);
        match Core::open(disk, self.clock.clone(), config(seed), &mut random, None) {
            Err(error) if is_damage(&error) && chain(&error).contains(&name) => {}
            Err(error) => return Err(format!("{name} changed at {offset}: {}", chain(&error))),
            Ok(_) => return Err(format!("{name} changed at {offset} of {used}: it opens")),
        }
        self.disk.damage(&name, offset, mask);
        self.report.restarts += 1;
        self.reopen()
    }

    /// The folder's lock is not simulated: whatever holds its files must be gone before the disk
    /// changes and before they are opened again.
    fn stop(&mut self) {
        self.core = None;
        self.writer = None;
        self.flush = None;
    }

    fn restart_machine(&mut self) -> Result<(), String> {
        self.stop();
        self.restart_disk();
        self.reopen()
    }

    fn restart(&mut self, crash: Crash) -> Result<(), String> {
        self.stop();
        let seed = self.random.random();
        self.disk.restart(crash, seed);
        self.report.restarts += 1;
        self.reopen()
    }

    fn reopen(&mut self) -> Result<(), String> {
        self.open()?;
        let Some(core) = &self.core else { return Ok(()) };
        let revisions: Vec<_> =
            core.shared.keyspaces.iter().map(|one| read(&one.state).revision).collect();
        self.resolve(&revisions)?;
        self.check_state()
    }

    /// Of what was under way, a first part happened and the rest did not.
    fn resolve(&mut self, revisions: &[i64]) -> Result<(), String> {
        let unknown = std::mem::take(&mut self.model.unknown);
        let mut candidates = vec![self.model.clone()];
        for (keyspace, command) in unknown {
            let mut next = candidates[candidates.len() - 1].clone();
            // The answer went nowhere, so there is none to compare.
            drop(next.apply(keyspace, &command));
            candidates.push(next);
        }
        let matching = candidates.into_iter().find(|model| {
            self.core.as_ref().is_some_and(|core| {
                model.keyspaces.iter().zip(&core.shared.keyspaces).all(|(model, one)| {
                    let state = read(&one.state);
                    model.revision == state.revision
                        && model.compacted == state.compacted
                        && model.leases.keys().eq(state.leases.keys())
                })
            })
        });
        match matching {
            Some(model) => {
                self.model = model;
                Ok(())
            }
            None => Err(format!(
                "after the restart the revisions are {revisions:?}; acknowledged were {:?}",
                self.model.keyspaces.iter().map(|one| one.revision).collect::<Vec<_>>()
            )),
        }
    }
}

fn is_replaced(result: &Result<Flushed, BackendError>) -> bool {
    matches!(result, Ok(Flushed { rewriting: Rewriting::Replaced(_), .. }))
}

fn everything() -> KeyRange {
    KeyRange { key: Bytes::from_static(&[0]), end: Some(Bytes::from_static(&[0])) }
}

fn is_damage(error: &CoreOpenError) -> bool {
    matches!(error, CoreOpenError::Wal(crate::wal::WalOpenError::Corrupt { .. }))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn compare<T: PartialEq + Debug>(
    what: &str,
    of: &dyn Debug,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} of {of:?} is\n  {found:?}\nand should be\n  {expected:?}"))
}

#[cfg(test)]
mod tests;
