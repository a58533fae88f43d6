//! A cluster of this one server, for stores that are not replicated.

use async_trait::async_trait;
use atoll_store::cluster::{ClusterControl, Member, Membership, Progress};
use atoll_store::kv::Error;
use tokio::sync::watch;

/// It leads for as long as it runs, and has nobody to change places with.
#[derive(Debug)]
pub struct SoleMember {
    membership: watch::Sender<Membership>,
}

impl SoleMember {
    pub fn new(member: Member, term: u64) -> Self {
        let leader = Some(member.id);
        let membership = Membership { members: vec![member], leader, term };
        Self { membership: watch::Sender::new(membership) }
    }
}

fn alone() -> Error {
    let detail = "this store runs on one server and is not replicated".to_owned();
    Error::Unavailable { detail }
}

#[async_trait]
impl ClusterControl for SoleMember {
    fn membership(&self) -> Membership {
        self.membership.borrow().clone()
    }

    fn watch_membership(&self) -> watch::Receiver<Membership> {
        self.membership.subscribe()
    }

    fn progress(&self) -> Vec<Progress> {
        Vec::new()
    }

    async fn add_learner(&self, _member: Member) -> Result<Member, Error> {
        Err(alone())
    }

    async fn promote(&self, _id: u64) -> Result<(), Error> {
        Err(alone())
    }

    async fn remove(&self, _id: u64) -> Result<(), Error> {
        Err(alone())
    }

    async fn update(&self, _member: Member) -> Result<(), Error> {
        Err(alone())
    }

    async fn transfer_leadership(&self, _to: Option<u64>) -> Result<(), Error> {
        Err(alone())
    }
}
