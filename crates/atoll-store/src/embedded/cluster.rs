//! [`ClusterControl`] and [`Inbox`] over an embedded store.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::queue::{Event, Queue};
use crate::cluster::{
    ClusterControl, Formats, Hello, Inbox, Member, Membership, Progress, Refusal, SnapshotSink,
};
use crate::core::{Arrivals, Ask, Told};
use crate::folder::draw_member_id;
use crate::kv::Error;
use crate::shared::Shared;

/// Wait before a question is asked again that met no leader.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct ClusterHandle {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    request_timeout: Duration,
}

impl ClusterHandle {
    pub(super) fn new(shared: Arc<Shared>, queue: Arc<Queue>, request_timeout: Duration) -> Self {
        Self { shared, queue, request_timeout }
    }

    /// Asks the leader, wherever it is, until there is one.
    pub(super) async fn ask(&self, ask: Ask) -> Result<Told, Error> {
        let deadline = Instant::now() + self.request_timeout;
        loop {
            self.shared.check()?;
            let (sender, answer) = oneshot::channel();
            self.queue.push_event(Event::Ask(ask.clone(), sender))?;
            match timeout_at(deadline, answer).await {
                Ok(Ok(Err(Error::NoLeader))) if Instant::now() < deadline => {
                    sleep(ASK_AGAIN_AFTER).await;
                }
                Ok(Ok(result)) => return result,
                Ok(Err(_)) | Err(_) => return Err(Error::Timeout { maybe_applied: true }),
            }
        }
    }
}

#[async_trait]
impl ClusterControl for ClusterHandle {
    fn membership(&self) -> Membership {
        self.shared.cluster.membership()
    }

    fn watch_membership(&self) -> watch::Receiver<Membership> {
        self.shared.cluster.watch()
    }

    fn progress(&self) -> Vec<Progress> {
        self.shared.cluster.progress()
    }

    fn formats(&self) -> Formats {
        self.shared.cluster.formats()
    }

    async fn add_learner(&self, member: Member) -> Result<Member, Error> {
        // Drawn once, so that asking again does not add another.
        let id = if member.id == 0 { draw_member_id() } else { member.id };
        match self.ask(Ask::AddLearner(Member { id, is_learner: true, ..member })).await? {
            Told::Member(member) => Ok(member),
            _ => Err(Error::Unavailable { detail: "a misplaced answer".to_owned() }),
        }
    }

    async fn promote(&self, id: u64) -> Result<(), Error> {
        self.ask(Ask::Promote(id)).await.map(drop)
    }

    async fn remove(&self, id: u64) -> Result<(), Error> {
        self.ask(Ask::Remove(id)).await.map(drop)
    }

    async fn update(&self, member: Member) -> Result<(), Error> {
        self.ask(Ask::Update(member)).await.map(drop)
    }

    async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), Error> {
        self.ask(Ask::Transfer(to)).await.map(drop)
    }
}

/// Where the transport hands in what it has received.
#[derive(Debug)]
pub(super) struct StoreInbox {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: Arc<Queue>,
    pub(super) arrivals: Arrivals,
}

impl Inbox for StoreInbox {
    fn hello(&self, peer: u64) -> Hello {
        self.shared.cluster.hello(peer)
    }

    fn check(&self, mine: &Hello, hello: &Hello) -> Result<(), Refusal> {
        self.shared.check().map_err(|error| Refusal::Other(error.to_string()))?;
        let checked = self.shared.cluster.check(mine, hello);
        if let Err(Refusal::OldCopy { id, .. }) = &checked
            && *id == self.shared.cluster.member_id
        {
            self.refused_by(
                hello.from,
                checked.as_ref().err().unwrap_or(&Refusal::Unknown { id: *id }),
            );
        }
        checked
    }

    fn deliver(&self, from: u64, message: Bytes) -> bool {
        self.queue.push_message(from, message)
    }

    fn settle(&self) {
        self.queue.settle();
    }

    fn unreachable(&self, peer: u64) {
        drop(self.queue.push_event(Event::Unreachable(peer)));
    }

    fn gone(&self, peer: u64) {
        drop(self.queue.push_event(Event::Gone(peer)));
    }

    fn refused_by(&self, peer: u64, refusal: &Refusal) {
        drop(self.queue.push_event(Event::Refused(peer, refusal.clone())));
    }

    fn begin_snapshot(&self, from: u64, message: Bytes) -> io::Result<Box<dyn SnapshotSink>> {
        let queue = self.queue.clone();
        let sink = self.arrivals.begin(from, message, move |arrived| {
            drop(queue.push_event(Event::SnapshotArrived(Box::new(arrived))));
        })?;
        Ok(Box::new(sink))
    }

    fn snapshot_sent(&self, to: u64, arrived: bool) {
        drop(self.queue.push_event(Event::SnapshotSent(to, arrived)));
    }
}
