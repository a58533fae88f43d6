//! The members of the store's cluster, for those who run it.

use atoll_store::cluster::{Member, Membership};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use serde_json::{Value, json};

use super::join::MemberRecord;
use crate::body::Body;
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::join::answer;
use crate::query::Query;
use crate::status::Status;

/// `GET /atoll/v1/members`
pub(crate) fn list<'a>(
    core: &'a Core,
    _request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move { answer(&document(core, &core.cluster()?.membership())) }.boxed()
}

/// `POST /atoll/v1/members/{name}/promote`
pub(crate) fn promote<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let member = named(core, &request, 1)?;
        core.cluster()?.promote(member.id).await.map_err(|error| Status::store(&error))?;
        answer(&MemberRecord::from(&member))
    }
    .boxed()
}

/// `POST /atoll/v1/members/{name}/lead`
pub(crate) fn lead<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let member = named(core, &request, 1)?;
        if member.is_learner {
            return Err(Status::bad_request(format!(
                "the server {:?} has no vote yet, so it cannot lead",
                member.name
            )));
        }
        let moved = core.cluster()?.transfer_leadership(Some(member.id)).await;
        moved.map_err(|error| Status::store(&error))?;
        answer(&MemberRecord::from(&member))
    }
    .boxed()
}

/// `DELETE /atoll/v1/members/{name}`, with `?force=true` whatever follows from it.
pub(crate) fn remove<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let member = named(core, &request, 0)?;
        let cluster = core.cluster()?;
        let membership = cluster.membership();
        let forced = Query::parse(request.head.uri.query().unwrap_or("")).flag("force");
        let live = core.servers.live.borrow().clone();
        let is_live = |one: &Member| live.contains_key(&one.name);
        may_go(&membership, &member, is_live, forced).map_err(Status::bad_request)?;
        if membership.leader == Some(member.id) {
            // Whoever leads next answers sooner than after an election.
            if let Err(error) = cluster.transfer_leadership(None).await {
                tracing::debug!(%error, "the leader goes without a successor");
            }
        }
        cluster.remove(member.id).await.map_err(|error| Status::store(&error))?;
        tracing::info!(server = member.name, user = request.user.name, "server removed");
        answer(&MemberRecord::from(&member))
    }
    .boxed()
}

/// Whether the others can do without it.
fn may_go(
    membership: &Membership,
    member: &Member,
    is_live: impl Fn(&Member) -> bool,
    forced: bool,
) -> Result<(), String> {
    if member.is_learner {
        return Ok(());
    }
    let rest: Vec<&Member> = membership.voters().filter(|one| one.id != member.id).collect();
    if rest.is_empty() {
        return Err(format!(
            "{:?} is the only server with a vote; it holds everything",
            member.name
        ));
    }
    let live = rest.iter().filter(|one| is_live(one)).count();
    let majority = rest.len() / 2 + 1;
    if live >= majority || forced {
        return Ok(());
    }
    Err(format!(
        "without {:?} there would be {} servers with a vote, of which {live} are there now, and \
         {majority} are needed: the cluster would stop; start the others first, or insist with \
         --force",
        member.name,
        rest.len()
    ))
}

/// The member that the path names, by name or id; `behind` segments follow the name.
fn named(core: &Core, request: &PlainRequest<'_>, behind: usize) -> Result<Member, Status> {
    let path = request.head.uri.path();
    let name = path.rsplit('/').nth(behind).unwrap_or_default();
    let members = core.cluster()?.membership().members;
    let found = members
        .iter()
        .find(|one| one.name == name)
        .or_else(|| members.iter().find(|one| format!("{:x}", one.id) == name));
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|one| one.name.as_str()).collect();
        Status::bad_request(format!("no server is called {name:?}; there are {}", names.join(", ")))
    })
}

pub(super) fn document(core: &Core, membership: &Membership) -> Value {
    let live = core.servers.live.borrow().clone();
    let formats = core.cluster().map(|cluster| cluster.formats()).unwrap_or_default();
    let members = membership.members.iter().map(|member| {
        let known = formats.members.get(&member.id);
        let mut value = json!(MemberRecord::from(member));
        value["isLeader"] = json!(membership.leader == Some(member.id));
        value["isThere"] = json!(live.contains_key(&member.name));
        value["release"] = json!(known.and_then(|known| known.release.as_ref()));
        value["formatLevelSupported"] = json!(known.and_then(|known| known.supported));
        value
    });
    json!({
        "leader": membership.leader.and_then(|id| membership.member(id)).map(|one| &one.name),
        "term": membership.term,
        "formatLevel": formats.level,
        "members": members.collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, is_learner: bool) -> Member {
        Member {
            id,
            name: format!("node-{id}"),
            peer_address: String::new(),
            client_urls: Vec::new(),
            is_learner,
        }
    }

    #[test]
    fn nobody_goes_whom_the_others_need() {
        let members = vec![member(1, false), member(2, false), member(3, false), member(4, true)];
        let three = Membership { members: members.clone(), leader: Some(1), term: 2 };
        let all = |_: &Member| true;
        may_go(&three, &members[0], all, false).unwrap();
        let without_two = |one: &Member| one.id != 2;
        may_go(&three, &members[1], without_two, false).unwrap();
        let refused = may_go(&three, &members[2], without_two, false).unwrap_err();
        assert!(refused.contains("2 servers with a vote, of which 1 are there now"), "{refused}");
        may_go(&three, &members[2], without_two, true).unwrap();
        may_go(&three, &members[3], |_| false, false).unwrap();

        let sole = Membership { members: vec![member(1, false), member(4, true)], ..three };
        let refused = may_go(&sole, &members[0], all, true).unwrap_err();
        assert!(refused.contains("is the only server"), "{refused}");
    }
}
