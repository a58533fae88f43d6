//! What a server does whose store cannot be used any more: it keeps the store aside and becomes a
//! new member in place of the old one.
//!
//! It is for a server that has others: they have everything that was acknowledged. What was decided
//! is written to `server.json` before it is done, so that a server that stops in between goes on
//! where it was.

mod aside;
mod ask;

use super::{
    Server, join,
    remembered::{Joined, KnownCluster, Memory, Rejoin, Rejoined, Remembered},
};
use anyhow::{Context as _, Result, bail};
use ask::{Asking, Refused};
use atoll_apiserver::servers::{
    join::MemberRecord,
    rejoin::{RejoinAnswer, RejoinStatement},
};
use atoll_store::{
    EmbeddedStore,
    cluster::{ClusterControl, draw_member_id},
};
use jiff::{SignedDuration, Timestamp};
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// A server whose store goes bad more often has a disk that cannot be trusted, and the others
/// would send it their whole state again and again.
const REJOINS_MAX: usize = 3;
const REJOINS_WITHIN: SignedDuration = SignedDuration::from_hours(1);
/// How long it is shown when nothing was kept.
const SHOWN_FOR: SignedDuration = SignedDuration::from_hours(24);
/// What is remembered of former times.
const REMEMBERED_MAX: usize = 5;
/// Between two rounds of questions; doubled up to the second.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_MAX: Duration = Duration::from_secs(15);
/// Rounds in which every server that answered refused. One that lags behind may not know this
/// member yet, so the first refusal is not the last word.
const REFUSALS_MAX: u32 = 6;

/// Why the store is not even to be opened, if so.
pub fn cause_at_start(folder: &Path, remembered: &Remembered) -> Option<String> {
    if let Some(rejoin) = &remembered.rejoin {
        return Some(rejoin.cause.clone());
    }
    let has_run = remembered.cluster.as_ref().is_some_and(|known| known.has_store);
    let store = folder.join("store");
    (has_run && !store.join("member.json").exists()).then(|| {
        format!("its store in {} is gone, or has no member.json any more", store.display())
    })
}

/// Whether the others have what this server had.
pub fn has_others(remembered: &Remembered) -> bool {
    remembered.cluster.as_ref().is_some_and(|known| others(known).next().is_some())
}

fn others(known: &KnownCluster) -> impl Iterator<Item = &MemberRecord> {
    known.members.iter().filter(|one| one.id != known.member_id)
}

/// Why a store that was opened without complaint is not this server's, if so.
pub fn is_another(store: &EmbeddedStore, remembered: &Remembered) -> Option<String> {
    let known = remembered.cluster.as_ref()?;
    let own = format!("{:x}", store.member_id());
    (known.cluster_id == store.cluster_id() && known.member_id != own).then(|| {
        format!(
            "its store is that of member {own}, which this server was before; it is member {} now",
            known.member_id
        )
    })
}

/// Remembers who there is, until the end.
pub async fn remember(
    cluster: Arc<dyn ClusterControl>,
    (cluster_id, member_id): (String, u64),
    memory: Arc<Memory>,
    stop: CancellationToken,
) {
    let mut membership = cluster.watch_membership();
    loop {
        let members = membership.borrow_and_update().members.clone();
        let is_member = members.iter().any(|one| one.id == member_id);
        let is_known = memory.get().cluster.is_some();
        if is_member && (members.len() > 1 || is_known) {
            let known = KnownCluster {
                cluster_id: cluster_id.clone(),
                member_id: format!("{member_id:x}"),
                members: members.iter().map(MemberRecord::from).collect(),
                has_store: true,
            };
            if let Err(error) = memory.change(|remembered| remembered.cluster = Some(known)) {
                warn!("who the other servers are was not written down: {error:#}");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = membership.changed() => if changed.is_err() { return },
        }
    }
}

/// Becomes a new member; waits for the others as long as it takes. What is returned is an error
/// that a person has to look into.
pub async fn rejoin(server: &Server, memory: &Memory, cause: &str) -> Result<()> {
    let store = server.data_dir.join("store");
    let remembered = memory.get();
    let known = remembered.cluster.clone().filter(|_| has_others(&remembered));
    let known = known.with_context(|| {
        format!(
            "this server cannot use its store: {cause}; there is no other server that has what it had: restore the newest backup (atoll restore FILE)"
        )
    })?;
    may_try(&remembered, cause, Timestamp::now())?;
    let rejoin = begin(memory, &known, cause)?;
    error!(
        cause,
        store = %store.display(),
        "this server has stopped serving: its store cannot be used; it asks the others to take it in as a new member"
    );
    let statement = RejoinStatement {
        cluster_id: known.cluster_id.clone(),
        name: remembered.name.clone(),
        old_id: rejoin.old_id.clone(),
        new_id: rejoin.new_id.clone(),
        cause: cause.to_owned(),
        peer_address: join::peer_advertise(server, &remembered)?,
        client_url: join::client_url(server),
    };
    let asking = Asking::new(&server.keys(), &statement, others(&known))?;
    let answer = taken_in(&asking).await.with_context(|| format!("rejoining after: {cause}"))?;
    let now = Timestamp::now();
    let kept_in = aside::keep(&server.data_dir, now)?;
    finish(server, memory, answer, Rejoined { at: now, cause: cause.to_owned(), kept_in })
}

/// What `atoll check` shows: the last time, as long as what was kept is there, or for a day.
pub fn to_show(remembered: &Remembered, now: Timestamp) -> serde_json::Value {
    let is_of_interest = |one: &&Rejoined| match &one.kept_in {
        Some(path) => path.exists(),
        None => now.duration_since(one.at).abs() < SHOWN_FOR,
    };
    serde_json::json!(remembered.rejoined.last().filter(is_of_interest))
}

/// Bounds how often: a disk that damages everything is a person's matter.
fn may_try(remembered: &Remembered, cause: &str, now: Timestamp) -> Result<()> {
    let recent = |one: &&Rejoined| now.duration_since(one.at).abs() < REJOINS_WITHIN;
    let count = remembered.rejoined.iter().filter(recent).count();
    if count >= REJOINS_MAX && remembered.rejoin.is_none() {
        bail!(
            "this server cannot use its store: {cause}; it became a new member {count} times within the last hour, so its disk or memory is to be looked at first; after that start it again, or replace the machine: take the server out (atoll member remove {}), delete its folder, and let it join with a new token",
            remembered.name
        );
    }
    Ok(())
}

/// Writes down what is about to be done, unless that was done before a stop.
fn begin(memory: &Memory, known: &KnownCluster, cause: &str) -> Result<Rejoin> {
    let begun = memory.get().rejoin.filter(|one| one.old_id == known.member_id);
    let rejoin = begun.unwrap_or_else(|| Rejoin {
        cause: cause.to_owned(),
        old_id: known.member_id.clone(),
        new_id: format!("{:x}", draw_member_id()),
    });
    memory.change(|remembered| remembered.rejoin = Some(rejoin.clone()))?;
    Ok(rejoin)
}

/// Asks all the others, round by round.
async fn taken_in(asking: &Asking) -> Result<RejoinAnswer> {
    let (mut wait, mut refusals, mut said) = (AGAIN_FIRST, 0, String::new());
    loop {
        let refused = match asking.round().await {
            Ok(answer) => return Ok(answer),
            Err(refused) => refused,
        };
        let why = match refused {
            Refused::Later(why) => {
                refusals = 0;
                why
            }
            Refused::ForGood(why) => {
                refusals += 1;
                if refusals >= REFUSALS_MAX {
                    bail!("the other servers do not take this one in: {why}");
                }
                why
            }
        };
        if said != why {
            warn!(
                why,
                "not taken in yet; asks again. If most servers are lost for good: atoll restore --from-folder, on one that is left"
            );
            said = why;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(AGAIN_MAX);
    }
}

fn finish(
    server: &Server,
    memory: &Memory,
    answer: RejoinAnswer,
    rejoined: Rejoined,
) -> Result<()> {
    info!(
        member = answer.member_id,
        kept_in = rejoined.kept_in.as_ref().map(|path| path.display().to_string()),
        "taken in as a new member; the state comes from the others. What could not be used is kept; delete it when nobody needs it"
    );
    memory.change(|remembered| {
        remembered.cluster = Some(KnownCluster {
            cluster_id: answer.cluster_id.clone(),
            member_id: answer.member_id.clone(),
            members: answer.members.clone(),
            has_store: false,
        });
        remembered.joined = Some(Joined {
            cluster_id: answer.cluster_id,
            member_id: Some(answer.member_id),
            members: answer.members,
            service_cidr: server.service_cidr.to_string(),
            pod_cidr: server.pod_cidr.to_string(),
            node_prefix: server.node_prefix,
        });
        remembered.has_peers = true;
        remembered.rejoin = None;
        remembered.rejoined.push(rejoined);
        let old = remembered.rejoined.len().saturating_sub(REMEMBERED_MAX);
        remembered.rejoined.drain(..old);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> MemberRecord {
        MemberRecord {
            id: id.to_owned(),
            name: format!("node-{id}"),
            peer_address: String::new(),
            client_urls: Vec::new(),
            is_learner: false,
        }
    }

    fn remembered(members: &[&str]) -> Remembered {
        let mut remembered = Remembered::new("node-1");
        remembered.cluster = Some(KnownCluster {
            cluster_id: "c".to_owned(),
            member_id: "1".to_owned(),
            members: members.iter().map(|id| record(id)).collect(),
            has_store: true,
        });
        remembered
    }

    #[test]
    fn a_store_that_is_gone_is_missed_once_it_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let fresh = Remembered::new("node-1");
        assert_eq!(cause_at_start(folder.path(), &fresh), None);
        let known = remembered(&["1", "2"]);
        let cause = cause_at_start(folder.path(), &known).unwrap();
        assert!(cause.contains("store is gone"), "{cause}");
        std::fs::create_dir(folder.path().join("store")).unwrap();
        assert!(cause_at_start(folder.path(), &known).is_some());
        std::fs::write(folder.path().join("store/member.json"), "{}").unwrap();
        assert_eq!(cause_at_start(folder.path(), &known), None);
        let mut taken_in = known;
        taken_in.cluster.as_mut().unwrap().has_store = false;
        std::fs::remove_dir_all(folder.path().join("store")).unwrap();
        assert_eq!(cause_at_start(folder.path(), &taken_in), None);
    }

    #[test]
    fn what_was_begun_goes_on_with_the_same_id() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path(), remembered(&["1", "2"]));
        let known = memory.get().cluster.unwrap();
        let first = begin(&memory, &known, "a flipped bit").unwrap();
        assert_eq!(first.old_id, "1");
        assert_eq!(begin(&memory, &known, "it is gone").unwrap(), first);
        let cause = cause_at_start(folder.path(), &memory.get());
        assert_eq!(cause.as_deref(), Some("a flipped bit"));
    }

    #[test]
    fn the_only_server_and_a_disk_that_fails_again_and_again_are_told_so() {
        assert!(has_others(&remembered(&["1", "2"])));
        assert!(!has_others(&remembered(&["1"])) && !has_others(&Remembered::new("a")));
        let mut known = remembered(&["1", "2"]);
        let now: Timestamp = "2026-11-25T16:00:00Z".parse().unwrap();
        let at = |minutes: i64| Rejoined {
            at: now - SignedDuration::from_mins(minutes),
            cause: String::new(),
            kept_in: None,
        };
        known.rejoined = vec![at(300), at(30), at(10)];
        may_try(&known, "a flipped bit", now).unwrap();
        known.rejoined.push(at(1));
        let refused = may_try(&known, "a flipped bit", now).unwrap_err().to_string();
        assert!(refused.contains("a flipped bit; it became a new member 3 times"), "{refused}");
        // What was begun is finished.
        known.rejoin =
            Some(Rejoin { cause: String::new(), old_id: "1".to_owned(), new_id: "9".to_owned() });
        may_try(&known, "a flipped bit", now).unwrap();
    }
}
