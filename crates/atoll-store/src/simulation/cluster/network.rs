//! Messages on their way, and what becomes of them.

use super::*;
use crate::cluster::{OutgoingSnapshot, Refusal, SnapshotSink};
use crate::consensus::{Net, PeerMessage};
use crate::kv::Error;

type Chunks = Box<dyn Iterator<Item = Result<Bytes, Error>> + Send>;

pub(super) enum Content {
    Message(Bytes),
    Snapshot(Bytes, Chunks),
}

pub(super) struct Parcel {
    pub(super) from: u64,
    /// The sender's start: what it sent in an earlier one may still arrive.
    pub(super) to: u64,
    pub(super) content: Content,
}

#[derive(Default)]
pub(super) struct Network {
    outbox: Arc<Mutex<Vec<Parcel>>>,
    /// From, to.
    pub(super) cut: BTreeSet<(u64, u64)>,
    /// Who dials, and whose address refuses it although it may live.
    pub(super) refusing: BTreeSet<(u64, u64)>,
    pub(super) loss: f64,
    pub(super) doubling: f64,
    pub(super) delay: Duration,
}

impl Network {
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.refusing.clear();
        self.loss = 0.0;
        self.doubling = 0.0;
        self.delay = Duration::ZERO;
    }
}

pub(super) struct SimulatedNet {
    from: u64,
    outbox: Arc<Mutex<Vec<Parcel>>>,
}

impl std::fmt::Debug for SimulatedNet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SimulatedNet").field("from", &self.from).finish_non_exhaustive()
    }
}

impl SimulatedNet {
    pub(super) fn new(from: u64, network: &Network) -> Self {
        Self { from, outbox: network.outbox.clone() }
    }
}

impl Net for SimulatedNet {
    fn send(&mut self, message: PeerMessage) {
        let content = Content::Message(message.content);
        lock(&self.outbox).push(Parcel { from: self.from, to: message.to, content });
    }

    fn send_snapshot(&mut self, snapshot: OutgoingSnapshot) {
        let content = Content::Snapshot(snapshot.message, snapshot.content);
        lock(&self.outbox).push(Parcel { from: self.from, to: snapshot.to, content });
    }

    fn set_peers(&mut self, _peers: &[Member]) {}
}

impl World {
    pub(super) fn send_parcels(&mut self, _from: u64) {
        let parcels = std::mem::take(&mut *lock(&self.network.outbox));
        for parcel in parcels {
            let lost = self.random.random_bool(self.network.loss);
            if let Content::Message(message) = &parcel.content {
                if lost {
                    continue;
                }
                if self.random.random_bool(self.network.doubling) {
                    let content = Content::Message(message.clone());
                    let again = Parcel { content, ..parcel };
                    let after =
                        self.delay() + Duration::from_millis(self.random.random_range(0..800));
                    self.schedule(after, What::Parcel(again));
                }
            }
            let after = self.delay();
            self.schedule(after, What::Parcel(parcel));
        }
    }

    fn delay(&mut self) -> Duration {
        let usual = Duration::from_micros(self.random.random_range(100..3000));
        // Now and then one is overtaken by many.
        let late = if self.random.random_bool(0.02) { 10.0 } else { 1.0 };
        usual + self.network.delay.mul_f64(self.random.random_range(0.0..late))
    }

    pub(super) fn deliver(&mut self, parcel: Parcel) -> Result<(), String> {
        let Parcel { from, to, content } = parcel;
        let reached = !self.network.cut.contains(&(from, to)) && self.greet(from, to)?;
        let Some(node) = self.nodes.get_mut(&to).filter(|node| reached && node.core.is_some())
        else {
            self.on_lost(from, to, &content);
            return Ok(());
        };
        if let Some(until) = node.paused_until.filter(|until| *until > self.now) {
            let wait = until - self.now;
            self.schedule(wait, What::Parcel(Parcel { from, to, content }));
            return Ok(());
        }
        node.set_time(self.now);
        match content {
            Content::Message(message) => {
                if let Some(core) = &mut node.core {
                    core.on_message(from, message);
                    core.run();
                }
            }
            Content::Snapshot(message, chunks) => self.take_snapshot(from, to, message, chunks)?,
        }
        self.settle(to)
    }

    fn on_lost(&mut self, from: u64, to: u64, content: &Content) {
        let Some(core) = self.nodes.get_mut(&from).and_then(|node| node.core.as_mut()) else {
            return;
        };
        match content {
            Content::Message(_) => core.on_unreachable(to),
            Content::Snapshot(..) => core.on_snapshot_sent(to, false),
        }
        core.run();
    }

    /// Both say who they are and how far they have come, as on a new connection: with every parcel,
    /// because one may be made at any time.
    fn greet(&mut self, from: u64, to: u64) -> Result<bool, String> {
        for (from, to) in [(from, to), (to, from)] {
            let (Some(caller), Some(called)) = (self.nodes.get(&from), self.nodes.get(&to)) else {
                return Ok(false);
            };
            let (Some(caller), Some(called)) = (&caller.core, &called.core) else {
                return Ok(false);
            };
            let mine = called.shared.cluster.hello(from);
            let said = caller.shared.cluster.hello(to);
            let Err(refusal) = called.shared.cluster.check(&mine, &said) else {
                continue;
            };
            if matches!(refusal, Refusal::OldCopy { .. }) {
                if self.plan.bug == Some(Bug::ReusesId) {
                    continue;
                }
                return Err(format!("a member is taken for an old copy: {refusal}"));
            }
            if let Some(core) = self.nodes.get_mut(&from).and_then(|node| node.core.as_mut()) {
                core.on_refused(to, &refusal);
            }
            self.settle(from)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn take_snapshot(
        &mut self,
        from: u64,
        to: u64,
        message: Bytes,
        chunks: Chunks,
    ) -> Result<(), String> {
        let broken = !self.healed && self.random.random_bool(0.2);
        let Some(node) = self.nodes.get_mut(&to) else { return Ok(()) };
        let taken: Arc<Mutex<Option<crate::core::Arrived>>> = Arc::default();
        let place = taken.clone();
        let sink = node.arrivals.as_ref().and_then(|arrivals| {
            arrivals.begin(from, message, move |arrived| *lock(&place) = Some(arrived)).ok()
        });
        let mut arrived = false;
        if let Some(sink) = sink {
            let mut sink: Box<dyn SnapshotSink> = Box::new(sink);
            let pushed = chunks.enumerate().try_for_each(|(number, chunk)| {
                if broken && number > 1 {
                    return Err(());
                }
                chunk.map_err(drop).and_then(|chunk| sink.push(&chunk).map_err(drop))
            });
            arrived = pushed.is_ok() && !broken && sink.finish().is_ok();
        }
        if let (Some(core), Some(state)) = (&mut node.core, lock(&taken).take()) {
            core.on_arrived(state);
            self.report.snapshots += 1;
        }
        if let Some(core) = self.nodes.get_mut(&from).and_then(|node| node.core.as_mut()) {
            core.on_snapshot_sent(to, arrived);
        }
        self.settle(from)
    }
}
