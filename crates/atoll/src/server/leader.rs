//! Which server acts for the cluster: the one whose store leads.
//!
//! It judges silent nodes, and may hold the Leases of controllers and scheduler. A leader that
//! loses its majority stops being one within the election timeout, and could not write anyway.

use atoll_controllers::election::Surroundings;
use atoll_store::cluster::{ClusterControl, Membership};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long a new leader waits for a word of the others before it takes one for gone: three
/// heartbeats. One that lives and is slow knows that it does not lead, and lets go by itself.
const GRACE: Duration = Duration::from_millis(300);

pub struct Leadership {
    own: String,
    member_id: u64,
    cluster: Arc<dyn ClusterControl>,
    leads: watch::Sender<bool>,
    since: Mutex<Option<Instant>>,
}

impl Leadership {
    pub fn new(own: &str, member_id: u64, cluster: Arc<dyn ClusterControl>) -> Arc<Self> {
        let leads = cluster.membership().leader == Some(member_id);
        Arc::new(Self {
            own: own.to_owned(),
            member_id,
            cluster,
            leads: watch::Sender::new(leads),
            since: Mutex::new(leads.then(Instant::now)),
        })
    }

    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Follows the store until `stop`, or until this server is no member any more.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) -> Followed {
        let mut members = self.cluster.watch_membership();
        let mut was_member = false;
        loop {
            let (leader, is_member) = {
                let seen = members.borrow_and_update();
                (seen.leader, seen.member(self.member_id).is_some())
            };
            self.set(leader == Some(self.member_id));
            if was_member && !is_member {
                return Followed::Removed;
            }
            was_member |= is_member;
            tokio::select! {
                () = stop.cancelled() => break,
                changed = members.changed() => if changed.is_err() { break },
            }
        }
        self.set(false);
        Followed::Stopped
    }

    fn set(&self, leads: bool) {
        self.leads.send_if_modified(|before| {
            if *before == leads {
                return false;
            }
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = leads.then(Instant::now);
            info!(leads, "leadership changed");
            *before = leads;
            true
        });
    }

    /// Who may hold Leases, and whose hold is void.
    pub fn surroundings(self: &Arc<Self>) -> Surroundings {
        let own = self.clone();
        Surroundings {
            may_hold: self.leads(),
            is_gone: Arc::new(move |holder: &str| own.is_gone(holder)),
        }
    }

    fn is_gone(&self, holder: &str) -> bool {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let is_settled = since.is_some_and(|since| since.elapsed() >= GRACE);
        let active = |id: u64| {
            let progress = self.cluster.progress();
            !is_settled || progress.iter().any(|one| one.id == id && one.is_active)
        };
        is_gone(holder, &self.own, &self.cluster.membership(), active)
    }
}

/// How [`Leadership::follow`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    Stopped,
    Removed,
}

/// A holder is a server's name, `_`, and something unique.
fn is_gone(holder: &str, own: &str, membership: &Membership, active: impl Fn(u64) -> bool) -> bool {
    let Some((name, _)) = holder.rsplit_once('_') else { return false };
    // One of our name that is not us is our former self: the folder has one process at a time.
    name == own
        || match membership.members.iter().find(|member| member.name == name) {
            Some(member) => !active(member.id),
            None => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_store::cluster::Member;

    #[test]
    fn a_former_self_and_a_silent_member_are_gone_and_strangers_are_not() {
        let member = |id: u64| Member { id, name: format!("node-{id}"), ..Member::default() };
        let three = Membership { members: (1..=3).map(member).collect(), leader: Some(1), term: 1 };
        let active = |id: u64| id != 3;
        assert!(is_gone("node-1_former", "node-1", &three, active));
        assert!(!is_gone("node-2_a", "node-1", &three, active));
        assert!(is_gone("node-3_a", "node-1", &three, active));
        // Somebody else's scheduler, which renews its Lease itself.
        assert!(!is_gone("another-machine_a", "node-1", &three, active));
        assert!(!is_gone("odd", "node-1", &three, active));
    }
}
