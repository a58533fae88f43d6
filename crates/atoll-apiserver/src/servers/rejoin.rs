//! How a server whose store cannot be used any more becomes a new member in place of the old one.
//!
//! Its token is used up; what it shows instead is a statement signed with the key of the peer
//! authority, which every server has and nobody else. It gets nothing secret: it has the keys. A
//! member that was removed is refused, and so is one whose place is taken by a server that runs.
//!
//! It draws its new id itself and has it written down before it asks, so that asking again after a
//! lost answer adds nothing. The new member is added before the old one goes: once an old id is
//! gone, only whoever was added for it comes in.

use atoll_identity::{certificates_from_pem, verify_statement};
use atoll_store::cluster::{ClusterControl, Member};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ServersConfig;
use super::join::{MemberRecord, check_place};
use crate::body::Body;
use crate::core::{Core, timestamp};
use crate::extension::PlainRequest;
use crate::join::{answer, parse};
use crate::status::Status;

/// What the statement is signed for.
pub const PURPOSE: &str = "rejoin";
const AUTHORITY_FILE: &str = "peer-ca.crt";
/// Bytes of a cause that are kept and shown.
const CAUSE_BYTES_MAX: usize = 1_024;

/// Body of `POST /atoll/v1/rejoin-server`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RejoinRequest {
    /// A [`RejoinStatement`] in JSON.
    pub statement: String,
    /// By the key of the peer authority, for [`PURPOSE`].
    pub signature: String,
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RejoinStatement {
    pub cluster_id: String,
    /// The name of its node.
    pub name: String,
    /// The member that it was, in hex.
    pub old_id: String,
    /// The member that it wants to be, drawn by it.
    pub new_id: String,
    /// Why its store cannot be used.
    pub cause: String,
    pub peer_address: String,
    pub client_url: String,
}

/// Answer of `POST /atoll/v1/rejoin-server`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejoinAnswer {
    pub cluster_id: String,
    /// In hex: the new id, which is a member's now.
    pub member_id: String,
    pub members: Vec<MemberRecord>,
}

/// What a server said when it asked to come back, for `atoll check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    cause: String,
    new_id: String,
    at: String,
}

/// `POST /atoll/v1/rejoin-server`
pub(crate) fn rejoin<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    on_rejoin(core, request).boxed()
}

async fn on_rejoin(core: &Core, request: PlainRequest<'_>) -> Result<Response<Body>, Status> {
    let servers = core.servers_config()?;
    let cluster = core.cluster()?;
    let asked: RejoinRequest = parse(&request.body)?;
    let statement = believed(servers, &asked)?;
    let members = cluster.membership().members;
    let (old, new) = ids(&statement)?;
    let step = next_step(&members, &statement, old, new)?;
    note(core, &statement);
    check_place(core, &members, &statement.name, &statement.peer_address, &statement.client_url)?;
    if cluster.membership().leader.is_none() {
        return Err(Status::unavailable(format!(
            "no server leads here: a majority of the {} servers must be there before {:?} can be \
             replaced",
            members.iter().filter(|one| !one.is_learner).count(),
            statement.name
        )));
    }
    if step == Step::Add {
        add(core, cluster.as_ref(), &statement, new).await?;
    }
    if members.iter().any(|one| one.id == old) {
        cluster.remove(old).await.map_err(|error| Status::store(&error))?;
        tracing::warn!(
            server = statement.name,
            old = statement.old_id,
            new = statement.new_id,
            cause = statement.cause,
            "a server became a new member in place of the old one"
        );
    }
    answer(&RejoinAnswer {
        cluster_id: servers.cluster_id.clone(),
        member_id: statement.new_id.clone(),
        members: present(cluster.as_ref(), old, Member { id: new, ..wanted(&statement) }),
    })
}

async fn add(
    core: &Core,
    cluster: &dyn ClusterControl,
    statement: &RejoinStatement,
    new: u64,
) -> Result<(), Status> {
    if core.servers.live.borrow().contains_key(&statement.name) {
        return Err(Status::unavailable(format!(
            "a server called {:?} is still there; if this does not pass, another process runs as \
             that server: end one of them",
            statement.name
        )));
    }
    let added = cluster.add_learner(Member { id: new, ..wanted(statement) }).await;
    added.map(drop).map_err(|error| Status::store(&error))
}

/// The statement, if a server of this cluster made it.
fn believed(servers: &ServersConfig, asked: &RejoinRequest) -> Result<RejoinStatement, Status> {
    let refused =
        |why: String| Status::forbidden_text("", "", "", format!("rejoining is refused: {why}"));
    let mut statement: RejoinStatement =
        serde_json::from_str(&asked.statement).map_err(|error| {
            Status::bad_request(format!("the statement is not as expected: {error}"))
        })?;
    // Before a key is read for somebody who knows nothing of this cluster, and is told nothing.
    if statement.cluster_id != servers.cluster_id {
        return Err(refused(format!(
            "it is of the cluster {}, and this is another",
            statement.cluster_id
        )));
    }
    let keys = (servers.read_keys)()
        .map_err(|why| Status::internal(format!("reading the keys of the cluster: {why}")))?;
    let pem = keys.get(AUTHORITY_FILE).map_or("", String::as_str);
    let authority =
        certificates_from_pem("the peer authority", pem).map_err(Status::internal)?.swap_remove(0);
    verify_statement(&authority, PURPOSE, &asked.statement, &asked.signature)
        .map_err(|error| refused(format!("{error}; join with a new token instead")))?;
    let end = statement.cause.floor_char_boundary(CAUSE_BYTES_MAX);
    statement.cause.truncate(end);
    statement.cause.retain(|c| !c.is_control());
    Ok(statement)
}

fn ids(statement: &RejoinStatement) -> Result<(u64, u64), Status> {
    let id = |text: &str| {
        let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0 && *id >> 63 == 0);
        id.ok_or_else(|| Status::bad_request(format!("{text:?} is not a member's id")))
    };
    let (old, new) = (id(&statement.old_id)?, id(&statement.new_id)?);
    if old == new {
        return Err(Status::bad_request("ids are not used again: the new one must be another"));
    }
    Ok((old, new))
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Add,
    /// It was added before; its answer was lost.
    Added,
}

fn next_step(
    members: &[Member],
    statement: &RejoinStatement,
    old: u64,
    new: u64,
) -> Result<Step, Status> {
    let name = &statement.name;
    let is_ours = |id: u64| members.iter().find(|one| one.id == id).map(|one| one.name == *name);
    match (is_ours(old), is_ours(new)) {
        (_, Some(true)) => Ok(Step::Added),
        (Some(true), None) => Ok(Step::Add),
        (None, None) => Err(Status::forbidden_text(
            "",
            "",
            "",
            format!(
                "rejoining is refused: member {} was removed from the cluster; to bring the server \
                 back, delete its folder and let it join with a new token (`atoll token create \
                 --usage server`)",
                statement.old_id
            ),
        )),
        (Some(false), _) | (_, Some(false)) => Err(Status::bad_request(format!(
            "rejoining is refused: that member is not called {name:?}"
        ))),
    }
}

fn wanted(statement: &RejoinStatement) -> Member {
    Member {
        id: 0,
        name: statement.name.clone(),
        peer_address: statement.peer_address.clone(),
        client_urls: vec![statement.client_url.clone()],
        is_learner: true,
    }
}

/// The members as they are now, also where this server has not heard of it yet.
fn present(cluster: &dyn ClusterControl, old: u64, new: Member) -> Vec<MemberRecord> {
    let mut members = cluster.membership().members;
    members.retain(|one| one.id != old);
    if !members.iter().any(|one| one.id == new.id) {
        members.push(new);
    }
    members.iter().map(MemberRecord::from).collect()
}

/// One for each name: there are as many as members.
fn note(core: &Core, statement: &RejoinStatement) {
    let trouble = Trouble {
        cause: statement.cause.clone(),
        new_id: statement.new_id.clone(),
        at: timestamp(core.now()),
    };
    let mut all = core.servers.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let known = all.insert(statement.name.clone(), trouble);
    if known.is_none_or(|known| known.new_id != statement.new_id) {
        tracing::warn!(
            server = statement.name,
            cause = statement.cause,
            "a server has stopped serving and asks to become a new member"
        );
    }
}

/// Who has asked this server, for `atoll check`.
pub(super) fn document(core: &Core) -> Value {
    let all = core.servers.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let all = all.iter().map(|(name, one)| {
        json!({ "server": name, "cause": one.cause, "memberId": one.new_id, "at": one.at })
    });
    all.collect()
}

/// For the fuzzer: whatever a machine sends here is read, or refused.
pub(crate) fn fuzz_request(body: &[u8]) {
    let Ok(request) = serde_json::from_slice::<RejoinRequest>(body) else { return };
    let believed = verify_statement(&[], PURPOSE, &request.statement, &request.signature);
    assert!(believed.is_err());
    if let Ok(statement) = serde_json::from_str::<RejoinStatement>(&request.statement)
        && let Ok((old, new)) = ids(&statement)
    {
        assert_ne!(old, new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        Member { id, name: name.to_owned(), ..Member::default() }
    }

    fn statement(old: &str, new: &str) -> RejoinStatement {
        RejoinStatement {
            cluster_id: "c".to_owned(),
            name: "node-2".to_owned(),
            old_id: old.to_owned(),
            new_id: new.to_owned(),
            cause: "a flipped bit".to_owned(),
            peer_address: "10.0.0.2:2380".to_owned(),
            client_url: "https://10.0.0.2:6443".to_owned(),
        }
    }

    fn asked(members: &[Member], old: &str, new: &str) -> Result<Step, String> {
        let statement = statement(old, new);
        let (old, new) = ids(&statement).map_err(|status| status.message().to_owned())?;
        next_step(members, &statement, old, new).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_member_is_replaced_once_and_a_removed_one_stays_out() {
        let before = [member(1, "node-1"), member(2, "node-2")];
        assert_eq!(asked(&before, "2", "a"), Ok(Step::Add));
        // The answer was lost, before or after the old member had gone.
        let between = [member(1, "node-1"), member(2, "node-2"), member(0xa, "node-2")];
        assert_eq!(asked(&between, "2", "a"), Ok(Step::Added));
        let after = [member(1, "node-1"), member(0xa, "node-2")];
        assert_eq!(asked(&after, "2", "a"), Ok(Step::Added));
        // Somebody removed it, or another copy of its folder was faster.
        for new in ["b", "c"] {
            let refused = asked(&after, "2", new).unwrap_err();
            assert!(refused.contains("member 2 was removed from the cluster"), "{refused}");
        }
    }

    #[test]
    fn nobody_takes_the_place_of_another() {
        let members = [member(1, "node-1"), member(2, "node-2")];
        let refused = asked(&members, "1", "a").unwrap_err();
        assert!(refused.contains("is not called \"node-2\""), "{refused}");
        let refused = asked(&members, "2", "1").unwrap_err();
        assert!(refused.contains("is not called \"node-2\""), "{refused}");
        for (old, new) in [("2", "2"), ("0", "a"), ("2", "ffffffffffffffff"), ("x", "a")] {
            assert!(asked(&members, old, new).is_err(), "{old} {new}");
        }
    }
}
