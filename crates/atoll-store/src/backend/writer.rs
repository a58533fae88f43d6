//! Whoever writes the state file: flushes one after the other, and between them the steps of a
//! rewrite.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use super::rewrite::{self, Kept, Rewrite, Stop};
use super::{Backend, BackendError, FlushJob, KEYSPACES, STATE_FILE, View};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::mvcc::ReadFault;

pub(crate) struct StateWriter {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    cache_bytes: usize,
    step_bytes: usize,
    rewrite: Option<Rewrite>,
    /// What was replaced: closed here, which takes time, when nobody reads it any more.
    retired: Vec<Arc<Backend>>,
    /// How long the last step took.
    took: Duration,
}

/// What a flush has left.
#[derive(Debug)]
pub(crate) struct Flushed {
    pub(crate) views: [View; KEYSPACES],
    /// What the state file takes on the disk.
    pub(crate) file_bytes: u64,
    pub(crate) rewriting: Rewriting,
    /// Of the transaction, with its wait for room on a full disk.
    pub(crate) took: Option<Duration>,
}

#[derive(Debug)]
pub(crate) enum Rewriting {
    No,
    Copying,
    /// This is the state file now.
    Replaced(Arc<Backend>),
    GivenUp(String),
}

/// How the copying ended.
#[derive(Debug)]
pub(crate) enum Copied {
    Whole,
    GivenUp(String),
    /// The state file does not hold what was written.
    Fault(ReadFault),
}

impl Debug for StateWriter {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StateWriter").field("copies", &self.is_copying()).finish_non_exhaustive()
    }
}

impl StateWriter {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        (cache_bytes, step_bytes): (usize, usize),
    ) -> Self {
        let (rewrite, retired, took) = (None, Vec::new(), Duration::ZERO);
        Self { disk, clock, cache_bytes, step_bytes, rewrite, retired, took }
    }

    /// Writes a job durably; the views show the state with it.
    pub(crate) fn flush(&mut self, job: &FlushJob) -> Result<Flushed, BackendError> {
        self.retired.extend(job.retired.clone());
        // One reference is the list's own.
        self.retired.retain(|backend| backend.is_read(1));
        let (rewriting, took) = self.write(job)?;
        if let Err(error) = job.released.remove() {
            tracing::warn!(%error, "an old log segment could not be removed");
        }
        let backend = match &rewriting {
            Rewriting::Replaced(backend) => backend,
            _ => &job.backend,
        };
        Ok(Flushed { views: backend.views()?, file_bytes: self.file_bytes(), rewriting, took })
    }

    /// What became of the rewrite, and how long the transaction took.
    fn write(&mut self, job: &FlushJob) -> Result<(Rewriting, Option<Duration>), BackendError> {
        let of_another = |rewrite: &mut Rewrite| !rewrite.is_of(&job.backend);
        if self.rewrite.take_if(of_another).is_some() {
            // A state from another member has taken the place of the one that was copied.
            rewrite::remove(&*self.disk);
        }
        let mut given_up = None;
        if let Some(rewrite) = self.rewrite.take_if(|rewrite| rewrite.is_whole()) {
            match rewrite.replace(&*self.disk, job) {
                Ok(backend) => {
                    self.retired.push(job.backend.clone());
                    return Ok((Rewriting::Replaced(backend), None));
                }
                Err(Kept::Old(error)) => given_up = Some(self.give_up(&error)),
                Err(Kept::Unknown(error)) => return Err(error),
            }
        }
        let began = self.clock.now();
        job.backend.write_guarded(job)?;
        let took = Some(self.clock.now().saturating_sub(began));
        if let Some(text) = given_up {
            return Ok((Rewriting::GivenUp(text), took));
        }
        match self.go_on(job) {
            Ok(rewriting) => Ok((rewriting, took)),
            Err(error) => Ok((Rewriting::GivenUp(self.give_up(&error)), took)),
        }
    }

    /// What a rewrite has to do about a job that has been written.
    fn go_on(&mut self, job: &FlushJob) -> Result<Rewriting, Stop> {
        match (&mut self.rewrite, job.rewrite) {
            (Some(rewrite), _) => rewrite.follow(job)?,
            (None, Some(room_bytes)) => {
                let (disk, clock) = (&*self.disk, self.clock.clone());
                let begun = Rewrite::begin(disk, clock, self.cache_bytes, job, room_bytes)?;
                self.rewrite = Some(begun);
            }
            (None, None) => return Ok(Rewriting::No),
        }
        self.took = Duration::ZERO;
        Ok(Rewriting::Copying)
    }

    fn give_up(&mut self, error: &dyn std::error::Error) -> String {
        self.rewrite = None;
        rewrite::remove(&*self.disk);
        crate::core::describe(error)
    }

    pub(crate) fn is_copying(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| !rewrite.is_whole())
    }

    /// How long to leave the disk to others before the next step.
    pub(crate) fn rest(&self) -> Duration {
        self.took
    }

    /// Copies a little more; says so when it has ended.
    pub(crate) fn step(&mut self) -> Option<Copied> {
        let began = self.clock.now();
        let rewrite = self.rewrite.as_mut().filter(|rewrite| !rewrite.is_whole())?;
        let stepped = rewrite.step(self.step_bytes);
        let is_whole = rewrite.is_whole();
        self.took = self.clock.now().saturating_sub(began);
        match stepped {
            Ok(()) => is_whole.then_some(Copied::Whole),
            Err(Stop::Fault(fault)) => {
                self.give_up(&fault);
                Some(Copied::Fault(fault))
            }
            Err(error) => Some(Copied::GivenUp(self.give_up(&error))),
        }
    }

    /// Zero when the disk cannot say.
    fn file_bytes(&self) -> u64 {
        let file = self.disk.open(STATE_FILE, false);
        file.and_then(|file| file.allocated_bytes()).unwrap_or(0)
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        if self.rewrite.take().is_some() {
            rewrite::remove(&*self.disk);
        }
    }
}
